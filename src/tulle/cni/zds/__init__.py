"""ZDS: handing captured pods' network namespaces to ztunnel over a unix SEQPACKET socket (section E5 of the
specification).

``session`` is the protocol without I/O: a state table for one connection that works towards a desired set of
workloads, whatever was sent before. ``server`` is the thin shell: sockets, descriptors, and which of several connected
ztunnels is in charge.
"""
