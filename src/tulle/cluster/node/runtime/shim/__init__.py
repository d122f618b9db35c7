"""The shim: the small process that keeps a node's containers while the kubelet comes and goes.

It holds the other end of every container's output (and writes the log files), collects exit codes, and carries
`kubectl attach`. It knows nothing of Kubernetes and imports nothing heavy, because it lives as long as the node.
Reading order: `protocol` (what is said on its socket), `logfile`, `container` (one container's pipes and state),
`connection`, `server` (the loop), `client` (the kubelet's side).
"""
