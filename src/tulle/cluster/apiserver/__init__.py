"""The embedded Kubernetes API server: what kubectl, the controllers, the nodes and the mesh talk to.

It speaks the public API of Kubernetes 1.36 for the kinds a service mesh needs, plus CustomResourceDefinitions. Reading
order: `kinds.py` (what is served, as data), `registry.py`, `request.py`, `errors.py`; then `rest/` (the verbs), `strategy/`
(what differs from kind to kind), `schema/`, `patch/`, `protobuf/`, `table/`, `auth/`; `discovery.py`, `openapi.py`,
`crds.py` and `kubelet.py` stand beside them, `bootstrap.py` fills an empty cluster, and `server.py` puts it all together.
"""
