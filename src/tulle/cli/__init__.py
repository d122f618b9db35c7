"""The command lines: `tulle` (this mesh on this machine, and what only it can tell) and `istioctl` (what Istio's users type).

Commands parse, call, print and choose an exit code; what they know lives in the packages they call. Reading order: `main` (tulle),
`istioctl`, then the module each command names.
"""
