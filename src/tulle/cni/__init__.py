"""istio-cni-node, the capture agent: one per node, it decides which pods belong to the mesh and makes their traffic
pass ztunnel.

It exists because a pod must be captured before its first packet and un-captured without a restart, and because what
captures it must not be undone from inside the pod. Reading order: ``enrolment`` (which pods, pure), ``rules`` (what
redirects them, pure), ``netns`` (finding a pod's network namespace and applying rules there), ``probes`` (the
kubelet's way past the policy), ``zds`` (handing namespaces to ztunnel), ``members`` and ``agent`` (joining all of it,
level by level), ``plugin`` with ``plugin_api`` and ``install`` (the CNI side), and last ``settings``, ``health`` and
``app``. Nothing here knows whether the cluster is Tulle's embedded one.
"""
