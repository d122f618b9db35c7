"""From the state of the mesh to Envoy's configuration: pure functions, one frozen value per step.

Every resource is named after what it belongs to, so that configuration is read back as objects: `pod/<uid>/outbound`,
`pod/<uid>/plaintext`, `pod/<uid>/hbone` are a pod's listeners, `pod/<uid>/inbound` its route table, and
`service|<client namespace>|<address>:<port>` or `direct|<client namespace>|<address>` the cluster of one destination that
some pod of the node has used.

A pod costs its three listeners and one route table, whatever the size of the mesh: listeners send all mesh traffic to the
cluster named after its destination, and Envoy asks for such a cluster when it first needs it.  `destination` decides what
it is, `cluster` writes it down.  `access` turns policies into matchers.  `shared` holds the few parts that all pods use,
among them those that refuse a connection in a way that the client sees every time.

Reading order: `names`, `destination`, `cluster`, `access`, `local_pod`, `pod`, `shared`, `prefixes`, `logs`.
"""
