"""The kubelet proper: from the pods that the API server assigned to this node to running containers, and back to
their status.

What to do next is decided by pure functions over what is known (`plan`, `status`, `probe_state`), and carried out by
one worker per pod.

Reading order: `spec` (a pod as this node reads it), `plan` (what to start and stop), `status` (what to report),
`env`, `expansion`, `quantity` (values), `volumes` and its kinds, `probes`, `hooks`, `pulls`, `container` (making one
container), `worker` (one pod), `manager` (all of them).
"""
