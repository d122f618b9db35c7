"""A node of the embedded cluster: a kubelet whose pods are real processes in namespaces of their own.

It exists so that the real kubectl, and a mesh that expects a real node, find on one machine what they find on any
cluster: pods with a network namespace, cgroups, logs, probes and exit codes, and nothing on the machine that outlives
them.

Reading order: `seams` (the network it uses), `paths` (where its files are), `runtime/` (containers), `images/` (their
roots), `pods/` (from assigned pods to containers and status), `server/` (what kubectl reaches through the API
server), `registration` (the Node object), `app` and `__main__` (all of it together), `cleanup` (the end, also after a
crash). `network/` is one implementation of the seam.
"""
