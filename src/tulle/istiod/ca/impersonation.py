"""When a node proxy may have the certificate of a workload.

A node proxy asks in the name of the pods it serves, so a stolen node must not be able to ask for anybody else's: the
account must be one that node proxies run as, its token must be bound to a pod that exists, is of that account and runs
on a node, and a live pod of the wanted account must run on the same node (E4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tulle.istiod.ca.callers import Caller
from tulle.kube.informer import Change
from tulle.kube.objects import Pod
from tulle.security.identity import Identity

TRUSTED_NODE_ACCOUNTS: Final = frozenset({("istio-system", "ztunnel")})

_ENDED: Final = frozenset({"Succeeded", "Failed"})


class NotAllowed(Exception):  # noqa: N818 (a verdict, not a fault)
    """The caller may not have that identity. The message is for the log; the caller is told nothing of it."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the rule needs of a pod."""

    uid: str
    service_account: str
    node: str


class Pods(Protocol):
    """The pods of the cluster, as the rule asks for them."""

    def find(self, namespace: str, name: str) -> PodFacts | None:
        """The pod of that name that has not ended."""

    def runs(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of that account that has not ended is on that node."""


@dataclass(slots=True)
class PodIndex:
    """``Pods`` kept from a Pod informer: ``informer.on_change(index.changed)``."""

    _pods: dict[tuple[str, str], PodFacts] = field(default_factory=dict)
    _counts: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def changed(self, change: Change[Pod]) -> None:
        """Follow one change."""
        before = self._pods.pop(change.key, None)
        if before is not None:
            self._count(before, change.key[0], -1)
        pod = change.new
        if pod is None or pod.status.phase in _ENDED or not pod.spec.node_name:
            return
        facts = PodFacts(pod.metadata.uid, pod.spec.service_account_name or "default", pod.spec.node_name)
        self._pods[change.key] = facts
        self._count(facts, change.key[0], 1)

    def _count(self, facts: PodFacts, namespace: str, by: int) -> None:
        key = (facts.node, namespace, facts.service_account)
        count = self._counts.get(key, 0) + by
        if count:
            self._counts[key] = count
        else:
            self._counts.pop(key, None)

    def find(self, namespace: str, name: str) -> PodFacts | None:
        """The pod of that name that is bound to a node and has not ended."""
        return self._pods.get((namespace, name))

    def runs(self, node: str, namespace: str, service_account: str) -> bool:
        """Whether a pod of that account that has not ended is on that node."""
        return (node, namespace, service_account) in self._counts

    def snapshot(self) -> Mapping[tuple[str, str], PodFacts]:
        """Every pod that counts, by (namespace, name)."""
        return dict(self._pods)


def may_impersonate(
    caller: Caller, wanted: Identity, pods: Pods, trusted: frozenset[tuple[str, str]] = TRUSTED_NODE_ACCOUNTS
) -> None:
    """Return if ``caller`` may have a certificate of ``wanted``; raises NotAllowed with the reason (E4)."""
    account = caller.identity
    if (account.namespace, account.service_account) not in trusted:
        raise NotAllowed(f"{account} is no node proxy account (accepted: {sorted(trusted)}), yet asks for {wanted}")
    if wanted.trust_domain != account.trust_domain:
        raise NotAllowed(f"{wanted} is not of trust domain {account.trust_domain!r}")
    node = _node_of(caller, pods)
    if not pods.runs(node, wanted.namespace, wanted.service_account):
        raise NotAllowed(f"no pod of {wanted} runs on node {node!r}, where the node proxy runs")


def _node_of(caller: Caller, pods: Pods) -> str:
    namespace = caller.identity.namespace
    if not caller.pod_name or not caller.pod_uid:
        raise NotAllowed(f"the token of {caller.identity} is not bound to a pod")
    pod = pods.find(namespace, caller.pod_name)
    if pod is None or pod.uid != caller.pod_uid:
        found = "none" if pod is None else f"uid {pod.uid}"
        raise NotAllowed(f"pod {namespace}/{caller.pod_name} with uid {caller.pod_uid} does not run (found: {found})")
    if pod.service_account != caller.identity.service_account:
        raise NotAllowed(f"pod {namespace}/{caller.pod_name} runs as {pod.service_account!r}, not as {caller.identity}")
    if caller.node and caller.node != pod.node:
        raise NotAllowed(f"the token is bound to node {caller.node!r}; pod {caller.pod_name} runs on {pod.node!r}")
    return pod.node
