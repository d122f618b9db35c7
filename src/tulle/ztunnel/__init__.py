"""The node proxy: every captured pod of a node sends and receives through it, with the pod's own identity.

Python decides and Envoy copies.  What istiod says of the mesh (`state`) and which pods the node agent hands over
(`zds`, `pods`) become Envoy configuration (`config`, pure functions), served to one Envoy over a unix socket (`proxy`);
keys are made here and signed by istiod's authority.  Policies are in `policy`, also pure.  `traffic` knows which
connections are open, closes those that a change of policy forbids, and counts.  `app` ties it together, `admin` answers
questions.
`dns` answers what pods ask about the mesh's names, `hosts` asks for the addresses of endpoints that have a name only.

Reading order: `policy`, `state`, `config`, `dns`, `hosts`, `pods`, `zds`, `proxy`, `traffic`, `app`.
"""
