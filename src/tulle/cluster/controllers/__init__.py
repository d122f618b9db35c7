"""The controllers that make a cluster out of an API: what kube-controller-manager and kube-scheduler are
elsewhere.

They know nothing of the embedded API server or its nodes; they speak to any Kubernetes API through
``tulle.kube`` and keep no state of their own. Reading order: ``caches`` (what all of them read), ``manager``
(how they run), then the chain of a workload: ``deployment`` (with ``rollout``, ``revisions``,
``deployment_status``), ``replicaset``, ``daemonset`` (with ``daemonpods``), ``scheduler`` (with ``nodefit``,
``affinity``), ``endpointslice``; then what comes and goes: ``serviceaccounts``, ``namespace``,
``garbagecollector`` (with ``ownergraph``), ``nodelifecycle``, ``podgc``.
"""

from tulle.cluster.controllers.manager import run

__all__ = ["run"]
