"""`istioctl analyze` for an ambient mesh: what is configured and does not do what it looks like.

The ids IST… are Istio's own and mean what they mean there. The ids TUL… are for traps that upstream lets pass, above all a policy that is
accepted and denies everything, or nothing. Reading order: `messages`, `loading`, `upstream` and `status` (IST), `policies`, `bindings` and
`profile` (TUL), `command`.
"""
