"""The pods of this node that are captured now, and the two steps that make a pod one of them or let it go.

Order matters and is the same for every way in (a new pod through the CNI plugin, a running pod that was labelled, a
restarted agent): the kubelet's probes are let through first, then traffic is redirected, then the namespace is handed
to ztunnel. On the way out: redirection first, then probes, and ztunnel keeps the namespace for a moment, because peers
learn of the change a little later.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from tulle.cni import netns as pod_netns
from tulle.cni.enrolment import Redirection
from tulle.cni.netns import NamespaceError, PodNetns
from tulle.cni.probes import ProbeAddresses
from tulle.cni.rules import pod_ruleset
from tulle.cni.zds.server import ZdsServer
from tulle.cni.zds.session import Workload

log = structlog.get_logger("tulle.cni")


@dataclass(frozen=True)
class PodIdentity:
    """Who a pod is, towards ztunnel."""

    uid: str
    namespace: str
    name: str
    service_account: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass
class Member:
    """A captured pod."""

    pod: PodIdentity
    netns: PodNetns
    redirection: Redirection | None = None
    workload: Workload | None = None
    leaving: asyncio.TimerHandle | None = None


class Members:
    """Captured pods by uid. Calls for one pod are serialised by the caller, one lock per pod."""

    def __init__(self, zds: ZdsServer, probes: ProbeAddresses, drain_seconds: float) -> None:
        self._zds = zds
        self._probes = probes
        self._drain_seconds = drain_seconds
        self._by_uid: dict[str, Member] = {}
        self._generation = 0

    def __len__(self) -> int:
        return sum(m.leaving is None for m in self._by_uid.values())

    def get(self, uid: str) -> Member | None:
        """The captured pod; None when it is not captured, or on its way out."""
        member = self._by_uid.get(uid)
        return member if member is not None and member.leaving is None else None

    def of_pod(self, namespace: str, name: str) -> list[Member]:
        """Every member under this name; more than one while a pod replaces another of the same name."""
        return [m for m in self._by_uid.values() if (m.pod.namespace, m.pod.name) == (namespace, name)]

    def accepted(self, member: Member) -> bool:
        """Whether ztunnel holds the pod's namespace."""
        return member.workload is not None and self._zds.accepted(member.workload)

    async def capture(
        self, pod: PodIdentity, netns: PodNetns, addresses: Iterable[str], redirection: Redirection
    ) -> Member:
        """Redirect the pod and hand it over. Takes ``netns`` over. Idempotent. Raises NamespaceError; then nothing
        is handed over.
        """
        member = self._admit(pod, netns)
        await self._probes.put(pod.uid, addresses)
        if member.redirection != redirection:
            ruleset = pod_ruleset(redirection)
            if not await pod_netns.verify(member.netns, ruleset):
                await pod_netns.apply(member.netns, ruleset)
                log.info("pod captured", pod=str(pod), inbound=redirection.inbound)
            member.redirection = redirection
        if member.workload is None:
            self._generation += 1
            member.workload = Workload(pod.uid, pod.name, pod.namespace, pod.service_account, self._generation)
        self._zds.put(member.workload, member.netns)
        return member

    def _admit(self, pod: PodIdentity, netns: PodNetns) -> Member:
        member = self._by_uid.get(pod.uid)
        if member is not None and member.leaving is not None:
            member.leaving.cancel()
            member.leaving = None
        if member is not None and member.netns.inode == netns.inode:
            if netns is not member.netns:
                netns.close()
            return member
        if member is not None:  # the pod's sandbox was made anew
            self._zds.drop(pod.uid)
            member.netns.close()
        member = Member(pod, netns)
        self._by_uid[pod.uid] = member
        return member

    async def release(self, member: Member) -> None:
        """Stop redirecting a pod that lives on. Raises NamespaceError."""
        await pod_netns.remove(member.netns)
        member.redirection = None
        await self._probes.drop(member.pod.uid)
        if member.leaving is None:
            loop = asyncio.get_running_loop()
            member.leaving = loop.call_later(self._drain_seconds, self._leave, member)
        log.info("pod released", pod=str(member.pod))

    async def forget(self, member: Member) -> None:
        """The pod is gone, and its namespace with it."""
        if member.leaving is not None:
            member.leaving.cancel()
        self._leave(member)
        try:
            await self._probes.drop(member.pod.uid)
        except NamespaceError as error:
            log.warning("probe addresses not updated", pod=str(member.pod), error=str(error))

    def _leave(self, member: Member) -> None:
        if self._by_uid.get(member.pod.uid) is member:
            del self._by_uid[member.pod.uid]
            self._zds.drop(member.pod.uid)
            member.netns.close()
