"""Containers: real processes in namespaces, made by `crun`, that outlive the kubelet.

The kubelet may be restarted at any time and nothing of a pod may be lost by it, so the things a running container
needs from a living process (somebody at the other end of its output pipe, somebody who collects its exit code) are
held by a second small process, the shim, one per node. It shares the kubelet's private mount namespace, so no mount
of a pod is ever seen by the rest of the machine.

Reading order: `records` (what is known of a container), `oci` and `security` (a container's config.json, pure),
`rootfs` (its root directory), `shim/` (the process that keeps it), `runtime` (what the kubelet calls), `exec` (a
process in a running container), `pause` (the sandbox's program).
"""
