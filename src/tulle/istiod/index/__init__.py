"""The mesh index: what the mesh consists of, and what follows from it, kept up to date one change at a time.

istiod has to tell thousands of proxies about every pod, and a pod may change every few milliseconds. Computing the mesh anew each time
is out of the question, so this package keeps the mesh as records with reverse indexes and recomputes only what a change reaches. All of
it is pure: records in, changed keys out; a test can replay any history and compare with a rebuild.

Reading order: `records` (input), `labels`, `protocols`, `convert` and `entries` (from API objects), `waypoints` (the binding rules),
`contained` (one object's faults are its own), `policies`, `tables` (reverse indexes), `state` (output), `reach`, `mesh` (the index itself).
"""
