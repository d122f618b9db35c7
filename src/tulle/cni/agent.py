"""The node agent's loop: for each pod of this node, what should be, what is, and one step from the one to the other.

It is level-based: a pod's or namespace's change, an answer of ztunnel, a restart of the agent all lead to the same
``reconcile`` of the pod, which looks at everything again. The annotation ``ambient.istio.io/redirection`` is the
result that the rest of the mesh acts on (section A2): it says ``enabled`` only after the redirection is in force and
ztunnel has accepted the pod.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Iterable

import structlog

from tulle.cni import netns as pod_netns
from tulle.cni.enrolment import REDIRECTION, Enrolment, PodFacts, enrolment, redirection
from tulle.cni.members import Member, Members, PodIdentity
from tulle.cni.netns import NamespaceError, PodNetns
from tulle.cni.settings import Settings
from tulle.cni.zds.server import ZdsServer, ZtunnelRefusedError
from tulle.cni.zds.session import Verdict
from tulle.kube import ApiError, Change, Client, Informer, NotFound, WorkQueue
from tulle.kube.objects import Namespace, Pod
from tulle.kube.resources import NAMESPACES, PODS

ENABLED, PENDING = "enabled", "pending"
ENDED = frozenset({"Succeeded", "Failed"})
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 0.5  # how long a living ztunnel may take before a running pod is shown as pending
Key = tuple[str, str]

log = structlog.get_logger("tulle.cni")


class CaptureError(Exception):
    """A new pod cannot be captured now; the message tells the kubelet, and so the user, why."""


class Agent:
    """``run`` reconciles forever; ``add`` is the CNI plugin's request for one new pod."""

    def __init__(self, settings: Settings, client: Client, zds: ZdsServer, members: Members) -> None:
        self._settings = settings
        self._client = client
        self._zds = zds
        self._members = members
        self._pods: Informer[Pod] = Informer(client, PODS, field_selector=f"spec.nodeName={settings.node_name}")
        self._namespaces: Informer[Namespace] = Informer(client, NAMESPACES)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._locks: weakref.WeakValueDictionary[Key, asyncio.Lock] = weakref.WeakValueDictionary()
        self._swept: set[str] = set()
        self.settled = asyncio.Event()
        self._pods.on_change(self._pod_changed)
        self._namespaces.on_change(self._namespace_changed)
        zds.on_verdict(self._verdict)

    async def run(self) -> None:
        """Follow the API and reconcile, forever. ``settled`` is set once every pod has been looked at."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pods.run())
            group.create_task(self._namespaces.run())
            await asyncio.gather(self._pods.synced(), self._namespaces.synced())
            await asyncio.gather(*(self.reconcile(key) for key in list(self._pods.store)), return_exceptions=True)
            self.settled.set()
            group.create_task(self._queue.work(self.reconcile, workers=4))

    def _pod_changed(self, change: Change[Pod]) -> None:
        if change.new is None and change.old is not None:
            self._swept.discard(change.old.metadata.uid)
        self._queue.add(change.key)

    def _namespace_changed(self, change: Change[Namespace]) -> None:
        before = change.old.metadata.labels if change.old is not None else None
        after = change.new.metadata.labels if change.new is not None else None
        if before != after:
            for key in self._pods.store:
                if key[0] == change.key[1]:
                    self._queue.add(key)

    def _verdict(self, verdict: Verdict) -> None:
        self._queue.add((verdict.workload.namespace, verdict.workload.name))

    async def reconcile(self, key: Key) -> float | None:
        """Bring one pod to what it should be; seconds until it must be looked at again, if so. Raises ApiError."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            pod = await self._current(key)
            if pod is None:
                return None
            try:
                return await self._bring(pod)
            except NamespaceError as error:
                log.warning("capture failed, trying again", pod=f"{key[0]}/{key[1]}", error=str(error))
                return RETRY_SECONDS

    async def _current(self, key: Key) -> Pod | None:
        """The living pod of this name; members of the same name that are not it are forgotten. Raises ApiError.

        A pod that came through the CNI plugin may be newer than what the informer has, so the server has the last word.
        """
        pod = self._pods.store.get(key)
        members = self._members.of_pod(*key)
        if any(pod is None or m.pod.uid != pod.metadata.uid for m in members):
            try:
                pod = await self._client.get(PODS, key[1], key[0])
            except NotFound:
                pod = None
        if pod is not None and pod.status.phase in ENDED:
            pod = None
        for member in members:
            if pod is None or member.pod.uid != pod.metadata.uid:
                await self._members.forget(member)
        return pod

    async def _bring(self, pod: Pod) -> float | None:
        member = self._members.get(pod.metadata.uid)
        namespace = self._namespaces.store.get(("", pod.metadata.namespace))
        captured = self._decide(pod, namespace).captured or (member is not None and await self._wanted_now(pod))
        if not captured:
            return await self._release(pod, member)
        if not pod.status.pod_ip:
            return None  # it starts: the CNI plugin captures it, and its address will wake us
        netns = member.netns if member is not None else pod_netns.find(self._settings.proc, pod.metadata.uid)
        if netns is None:
            return RETRY_SECONDS  # between two processes, or not seen yet
        wanted = redirection(pod.metadata.annotations, dns_capture=self._settings.dns_capture)
        member = await self._members.capture(identity(pod), netns, _addresses(pod), wanted)
        if self._zds.connected and member.workload is not None:
            with contextlib.suppress(ZtunnelRefusedError):
                await self._zds.wait_accepted(member.workload, ANSWER_SECONDS)
        await self._annotate(pod, self._result(pod, member))
        return None

    def _result(self, pod: Pod, member: Member) -> str:
        """A pod that was enabled stays so while ztunnel restarts: its traffic waits or is refused, and peers need
        not flap.
        """
        accepted = self._members.accepted(member)
        return ENABLED if accepted or pod.metadata.annotations.get(REDIRECTION) == ENABLED else PENDING

    async def _release(self, pod: Pod, member: Member | None) -> float | None:
        uid = pod.metadata.uid
        if member is not None:
            await self._members.release(member)
            self._swept.add(uid)
        elif not pod.spec.host_network and (uid not in self._swept or REDIRECTION in pod.metadata.annotations):
            await self._sweep(pod)
        await self._annotate(pod, None)
        return None

    async def _sweep(self, pod: Pod) -> None:
        """A pod that an earlier agent captured, and that left the mesh while none was running."""
        netns = pod_netns.find(self._settings.proc, pod.metadata.uid) if pod.status.pod_ip else None
        if netns is None:
            return
        try:
            if await pod_netns.is_redirected(netns):
                await pod_netns.remove(netns)
                log.info("pod released", pod=f"{pod.metadata.namespace}/{pod.metadata.name}")
        finally:
            netns.close()
        self._swept.add(pod.metadata.uid)

    def _decide(self, pod: Pod, namespace: Namespace | None) -> Enrolment:
        meta = pod.metadata
        labels = namespace.metadata.labels if namespace is not None else {}
        facts = PodFacts(meta.namespace, meta.labels, meta.annotations, pod.spec.host_network)
        return enrolment(facts, labels, self._settings.excluded_namespaces)

    async def _wanted_now(self, pod: Pod) -> bool:
        """Whether a captured pod is to stay so. Raises ApiError.

        The CNI plugin's way in saw pod and namespace as the server has them, and either informer may be behind that:
        letting the pod go by what it has would let it run uncaptured until it is up to date.
        """
        meta = pod.metadata
        now, namespace = await asyncio.gather(
            self._client.get(PODS, meta.name, meta.namespace), self._client.get(NAMESPACES, meta.namespace)
        )
        return self._decide(now, namespace).captured

    async def _annotate(self, pod: Pod, value: str | None) -> None:
        """Write the result, if it differs, on exactly this pod: the uid is a precondition (section A2)."""
        meta = pod.metadata
        if meta.annotations.get(REDIRECTION) == value:
            return
        body = {"metadata": {"uid": meta.uid, "annotations": {REDIRECTION: value}}}
        try:
            await self._client.patch(PODS, meta.name, body, meta.namespace, kind="merge", subresource="status")
        except NotFound:
            return  # deleted meanwhile
        log.info("pod annotated", pod=f"{meta.namespace}/{meta.name}", redirection=value)

    async def add(self, key: Key, uid: str, netns: PodNetns, addresses: Iterable[str]) -> bool:
        """A new pod, before its first process: True when it is captured and ztunnel has it, False when the mesh does
        not want it.

        Takes ``netns`` over. Raises CaptureError; the pod must then not start (the kubelet tries again).
        """
        owned: PodNetns | None = netns
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with asyncio.timeout(self._settings.handover_seconds):
                pod, namespace = await asyncio.gather(self._lookup(key, uid), self._lookup_namespace(key[0]))
            if not self._decide(pod, namespace).captured:
                return False
            wanted = redirection(pod.metadata.annotations, dns_capture=self._settings.dns_capture)
            async with lock:
                owned = None
                member = await self._members.capture(identity(pod), netns, addresses, wanted)
            if member.workload is not None:
                await self._zds.wait_accepted(member.workload, self._settings.handover_seconds)
        except TimeoutError as error:
            raise CaptureError(f"pod {key[0]}/{key[1]}: the API server does not answer the node agent") from error
        except ApiError as error:
            raise CaptureError(f"pod {key[0]}/{key[1]}: the API server refused the node agent: {error}") from error
        except (NamespaceError, ZtunnelRefusedError) as error:
            raise CaptureError(str(error)) from error
        finally:
            if owned is not None:
                owned.close()
        return True

    async def _lookup(self, key: Key, uid: str) -> Pod:
        """The pod as the server has it now. Raises CaptureError when it is not there."""
        try:
            pod = await self._client.get(PODS, key[1], key[0])
        except NotFound as error:
            raise CaptureError(f"pod {key[0]}/{key[1]} does not exist (any more)") from error
        if uid and pod.metadata.uid != uid:
            raise CaptureError(f"pod {key[0]}/{key[1]} has uid {pod.metadata.uid}, but the request is for uid {uid}")
        return pod

    async def _lookup_namespace(self, name: str) -> Namespace:
        """The namespace as the server has it now: a label set just before the pod was made must count."""
        try:
            return await self._client.get(NAMESPACES, name)
        except NotFound as error:
            raise CaptureError(f"namespace {name} does not exist (any more)") from error


def identity(pod: Pod) -> PodIdentity:
    """The pod as ztunnel knows it; an unset service account is the namespace's default one."""
    meta = pod.metadata
    return PodIdentity(meta.uid, meta.namespace, meta.name, pod.spec.service_account_name or "default")


def _addresses(pod: Pod) -> list[str]:
    listed = [entry.ip for entry in pod.status.pod_ips if entry.ip]
    return listed or [pod.status.pod_ip]
