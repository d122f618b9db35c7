"""A node's network, inside the node's own network namespace: what a CNI plugin, kube-proxy and CoreDNS are to a real
cluster.

It exists so that pods of the embedded cluster have real addresses, real Service VIPs and a real cluster DNS, with the
semantics that a mesh relies on. Read ``config`` (addresses), ``commands`` (how the kernel is told), ``ipam``, ``link``
(a pod's namespace and veth, anti-spoofing), ``cni`` (chained plugins), then ``services`` (pure: the nftables state
that Services ask for) and ``proxy`` (applies it), ``dns`` (the name server), and last ``node_network``, which joins
them behind the node's ``Network`` seam.
"""
