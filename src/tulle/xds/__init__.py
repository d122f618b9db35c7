"""Delta xDS: how a control plane tells a proxy what changed, and how the proxy says what it made of it.

One protocol serves three conversations: istiod to a node proxy (workloads and policies), istiod to a waypoint's Envoy,
and a node proxy to the Envoy beside it (over a unix socket). The protocol itself lives in two state machines without
I/O; gRPC is a thin shell around each.

Reading order: ``types`` (type URLs and the order between types), ``resources`` (a versioned collection, encoded once),
``subscription`` and ``delta`` (the server's side of a stream), ``delta_client`` (the client's side), ``server`` and
``client`` (gRPC), ``sotw`` (the older state-of-the-world form, for tools). ``proto`` holds the messages that are not
Envoy's own.
"""
