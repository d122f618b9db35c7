"""`tulle explain`: what becomes of one request, and why.

The mesh decides in several places: capture at the node, binding at istiod, layer 7 at a waypoint, layer 4 at ztunnel. Each of
them is right by itself, and somebody at 3 a.m. needs the sum. This package assembles the same world that istiod sees, from a live
cluster or from YAML, walks the request through it with the mesh's own index and policy engine, and looks for the smallest change
that would let it pass, which it tries in the same world before it says so.

Reading order: `kubeyaml` and `documents` (YAML in), `live` (a cluster in), `objects` and `shapes` (manifests into the index's records),
`completion` (what controllers would have written), `world` (all of it, and "what if"), `places` (who asks, and for what), `route` (the way
a request takes), `tokens` and `evaluate` (its fate), `findings` with `traps` (what goes wrong on the way), `patches`, `repairs` and
`changes` (the smallest change), `report` (the answer as data), `render` and `command`.
"""
