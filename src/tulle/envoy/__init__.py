"""Running and configuring an Envoy: what the node proxy and the waypoint have in common.

Envoy copies every byte of the mesh; this package starts it, keeps it alive and speaks its configuration language, and
knows nothing of policies or Kubernetes.  Read `bootstrap` and `process` (the process and its first configuration), then
the builders `sockets`, `tls`, `matching`, `filters`, `clusters` and `accesslog` (typed functions that return the few
Envoy messages in use), then `certificates` (keys made here, signed by the mesh's CA, served to Envoy as SDS secrets).
"""
