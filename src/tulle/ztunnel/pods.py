"""The captured pods of this node: their namespaces, certificates and configuration, from hand-over to removal.

A hand-over is confirmed when Envoy listens in the pod's namespace, because from then on the pod's traffic is
redirected there.  The certificate is waited for as well, but not for ever: without it the pod's tunnels stay closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp
import structlog

from tulle.ztunnel.config import names
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.netns import HeldNetns, NetnsDirectory, can_impersonate, has_ipv6

_log = structlog.get_logger("tulle.ztunnel")

_UID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,252}")
#: Seconds to wait for Envoy to listen, and for the first certificate.
LISTEN_SECONDS: Final = 8.0
CERTIFICATE_SECONDS: Final = 3.0


class PodRefusedError(Exception):
    """A pod cannot be taken over; the text goes back to the node agent."""


class Certificates(Protocol):
    """What pods need of the certificate manager."""

    def want(self, identity: str) -> None: ...

    def release(self, identity: str) -> None: ...

    def ready(self, identity: str) -> Awaitable[Any]: ...


class Dns(Protocol):
    """What pods need of the DNS proxy."""

    async def open(self, pod: LocalPod, netns: int) -> None: ...

    def close(self, uid: str) -> None: ...

    def close_all(self) -> None: ...


@dataclass(frozen=True)
class PodInfo:
    """What the node agent says of a pod."""

    name: str
    namespace: str
    service_account: str


class LocalPods:
    """Takes pods over and gives them up.  `active_listeners` yields the names of a pod's open listeners."""

    def __init__(
        self,
        configurator: Configurator,
        certificates: Certificates,
        directory: NetnsDirectory,
        dns: Dns,
        *,
        trust_domain: str,
        keep_source: bool,
        active_listeners: Callable[[str], Awaitable[frozenset[str]]],
    ) -> None:
        self._configurator = configurator
        self._certificates = certificates
        self._directory = directory
        self._dns = dns
        self._trust_domain = trust_domain
        self._keep_source = keep_source
        self._active_listeners = active_listeners
        self._held: dict[str, HeldNetns] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._held

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(self._held)

    def netns(self, uid: str) -> int | None:
        """A descriptor of a pod's network namespace, None for a pod that is not there."""
        held = self._held.get(uid)
        return held.descriptor if held is not None else None

    async def add(self, uid: str, info: PodInfo, descriptor: int) -> None:
        """Take a pod over; owns `descriptor` from here on.  Raises PodRefusedError."""
        if not _UID.fullmatch(uid) or not info.name or not info.namespace:
            os.close(descriptor)
            raise PodRefusedError(f"uid {uid!r}, pod {info.namespace}/{info.name}: not a usable name")
        before = self._held.get(uid)
        if before is not None and before.inode == os.fstat(descriptor).st_ino:
            os.close(descriptor)
        else:
            self._take(uid, info, descriptor)
        await self._serving(uid)

    def _take(self, uid: str, info: PodInfo, descriptor: int) -> None:
        before = self._held.get(uid)
        held = self._directory.hold(uid, descriptor)
        service_account = info.service_account or "default"
        pod = LocalPod(
            uid,
            info.name,
            info.namespace,
            service_account,
            held.path,
            self._trust_domain,
            has_ipv6(descriptor),
            self._keep_source and can_impersonate(descriptor),
        )
        self._certificates.want(pod.identity)
        old = self._configurator.pods.get(uid)
        self._held[uid] = held
        self._configurator.add_pod(pod)
        if old is not None:
            self._certificates.release(old.identity)
        if before is not None:
            self._dns.close(uid)
            self._directory.release(before)
        _log.info("pod added", pod=f"{info.namespace}/{info.name}", uid=uid, identity=pod.identity)
        if self._keep_source and not pod.keeps_source:
            _log.warning(
                "the app sees its own pod's address as its clients'",
                pod=f"{info.namespace}/{info.name}",
                reason="this process may not make transparent sockets in the pod's namespace (CAP_NET_ADMIN)",
            )

    async def _serving(self, uid: str) -> None:
        pod = self._configurator.pods[uid]
        try:
            await self._dns.open(pod, self._held[uid].descriptor)
        except OSError as error:
            raise PodRefusedError(
                f"pod {pod.namespace}/{pod.name}: port 15053 of its loopback, where its DNS questions are redirected to, "
                f"cannot be had: {error}"
            ) from error
        certified = await self._certified(pod)
        wanted = self._configurator.listener_names(uid, with_certificate=certified)
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                while not wanted <= await self._active_listeners(uid):  # noqa: ASYNC110 (another process is asked)
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise PodRefusedError(
                f"pod {pod.namespace}/{pod.name}: Envoy does not listen in its network namespace after "
                f"{LISTEN_SECONDS:g} s; see the proxy's log for a rejected listener"
            ) from error

    async def _certified(self, pod: LocalPod) -> bool:
        try:
            async with asyncio.timeout(CERTIFICATE_SECONDS):
                await self._certificates.ready(pod.identity)
        except TimeoutError:
            _log.warning("pod has no certificate yet", pod=f"{pod.namespace}/{pod.name}", identity=pod.identity)
            return False
        return True

    def remove(self, uid: str) -> None:
        """Give a pod up; one that is not there is no error."""
        held = self._held.pop(uid, None)
        if held is None:
            return
        pod = self._configurator.pods[uid]
        self._configurator.remove_pod(uid)
        self._certificates.release(pod.identity)
        self._dns.close(uid)
        self._directory.release(held)
        _log.info("pod removed", pod=f"{pod.namespace}/{pod.name}", uid=uid)

    def remove_others(self, keep: frozenset[str]) -> None:
        """Give up every pod that is not in `keep`."""
        for uid in self.uids - keep:
            self.remove(uid)

    def close(self) -> None:
        """Close every descriptor, for the end of the process."""
        self._dns.close_all()
        for held in self._held.values():
            self._directory.release(held)
        self._held.clear()


def listener_reader(get: Callable[[str], Awaitable[str]]) -> Callable[[str], Awaitable[frozenset[str]]]:
    """Reads the names of a pod's open listeners from Envoy's admin interface; none while Envoy is not there.

    Only that pod's are asked for: a list of all would make a pod's start the slower, the more pods the node has.
    """

    async def read(uid: str) -> frozenset[str]:
        wanted = quote(re.escape(names.listener(uid, "")) + ".*", safe="")
        path = f"/config_dump?resource=dynamic_listeners&name_regex={wanted}&mask=name,active_state.version_info"
        try:
            answer = json.loads(await get(path))
        except (aiohttp.ClientError, OSError):
            return frozenset()
        return frozenset(found["name"] for found in answer.get("configs", ()) if "active_state" in found)

    return read
