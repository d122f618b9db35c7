"""The cluster's name server, on the address that every pod's resolv.conf names.

Read ``zone`` first (pure: which records a name has, by the Kubernetes DNS specification), then ``message`` (packets
in, packets out, still pure), ``upstream`` (names of the outside world) and ``server`` (sockets).
"""
