"""L4 authorization as the node proxy enforces it: conditions on a peer, kept as data.

`terms` is the language of conditions, with evaluation and simplification; `convert` reads istio.security.Authorization
into it; `decide` says what a set of policies makes of a peer, and names the policy.  The same terms are compiled to Envoy
matchers in `tulle.ztunnel.config`, and evaluated here, so that the two can be checked against each other.
"""
