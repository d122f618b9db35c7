"""The control plane: it watches the cluster, computes the mesh, tells every proxy its part, and is the mesh's certificate authority.

Everything a proxy is told follows from the objects in the API server and from nothing else, so any number of istiods may run, and one that
is killed loses nothing. The computing parts are pure and know neither sockets nor clocks; the rim around them is thin.

Reading order: `index` (the mesh and what follows from it); `wds`, `authorization_pb`, `waypoint_targets` (into what proxies read);
`waypoint_config` (a waypoint's Envoy resources); `publish`, `waypoint_source` (keeping it up to date, in a safe order); `access` (who may
read what); `source`, `informers` (where changes come from); `gateway_objects`, `gateway_status`, `gateways` (waypoints as pods);
`policy_status`, `status` (conditions); `admission_review`, `webhook`; `ca` (certificates); `server`, `http`, `leader`, `app`.
"""
