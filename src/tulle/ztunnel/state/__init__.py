"""What istiod has said of the mesh: workloads, services, policies.

`model` holds the frozen types and reads them from the wire; `mesh` is the index over them, which tells who depends on a
change.
"""
