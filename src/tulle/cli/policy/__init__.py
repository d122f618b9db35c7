"""`tulle policy`: what policies come to.

`compile` shows what proxies are sent for policies, as the wire messages, and what was dropped on the way there; `decide` answers
requests in bulk, for scripts and for tests of one's own policies. Reading order: `compiled`, `decided`, `command`.
"""
