"""The DNS proxy (spec D11): what a captured pod asks on port 53 is answered here if it is about the mesh.

A name of a ServiceEntry is known to istiod only, so without this no pod could resolve it.  Everything else goes on,
unchanged, to whoever the pod asked, from the pod's own network namespace.

Reading order: `names`, `lookup`, `message` (all pure), `origin`, `relay`, `server`.
"""
