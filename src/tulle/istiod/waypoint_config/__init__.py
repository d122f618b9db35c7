"""What a waypoint's Envoy is told: a pure function from a frozen view of the mesh to Envoy resources.

A waypoint is a proxy in front of Services (or workloads): it terminates HBONE, decides L7 policy on the identity of the original
client, and opens HBONE to the chosen endpoint with its own identity. istiod computes for each waypoint a `WaypointConfigView` and this
package turns it into the listeners, routes, clusters, endpoints and filters of that one waypoint.

Reading order: `view` (the input), `names`, `listeners` and `chains` (how a request travels), what is asked on the way: `rbac`
(policies), `authorizers`, `tokens`; then `filing`, `routes`, `clusters`, `logs`, `resources` (the whole).
"""
