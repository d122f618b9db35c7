"""The node's ``Network``: everything of this package behind the one seam that the node's pod code sees.

``attach`` is idempotent and safe against a crash at any line: the address is recorded first, the wiring is made or
found again second, the chained plugins come last, and a plugin's refusal undoes the wiring, so that the next attempt
starts clean and a pod never runs half-wired.
"""

import asyncio
import ipaddress
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import structlog

from tulle.cluster.node.network import link, namespaces
from tulle.cluster.node.network.catalogue import Catalogue
from tulle.cluster.node.network.cni import Chain, first_result
from tulle.cluster.node.network.commands import CommandError, nft
from tulle.cluster.node.network.config import NetworkConfig, mac_of
from tulle.cluster.node.network.dns.server import DnsServer
from tulle.cluster.node.network.dns.upstream import HostResolver, Upstream, parse_resolv_conf
from tulle.cluster.node.network.dns.zone import Zone
from tulle.cluster.node.network.ipam import AddressesExhaustedError, AddressPool
from tulle.cluster.node.network.proxy import ServiceProxy
from tulle.cluster.node.network.services import TABLE
from tulle.cluster.node.seams import NetworkError, PodNetwork, PodRef
from tulle.kube.client import Client
from tulle.kube.informer import Informer
from tulle.kube.objects import Namespace
from tulle.kube.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
MAX_SEARCH_DOMAINS = 32

log = structlog.get_logger("tulle.node.network")


class _Namespaces:
    """Whether a namespace exists, by the informer's store."""

    def __init__(self, informer: Informer[Namespace]) -> None:
        self._informer = informer

    def __contains__(self, name: object) -> bool:
        return ("", str(name)) in self._informer.store


class NodeNetwork:
    """Implements ``tulle.cluster.node.seams.Network``. Lives in the node's network and mount namespace; needs root
    there.
    """

    def __init__(self, config: NetworkConfig, client: Client, *, resolv_conf: Path = HOST_RESOLV_CONF) -> None:
        self._config = config
        self._pool = AddressPool(config.addresses_file, config.pod_cidr)
        self._chain = Chain(config.cni_config_dir, config.cni_bin_dir)
        self._services = Informer(client, SERVICES)
        self._slices = Informer(client, ENDPOINT_SLICES)
        self._namespaces = Informer(client, NAMESPACES)
        self._catalogue = Catalogue()
        self._catalogue.follow(self._services, self._slices)
        self._proxy = ServiceProxy(config, self._catalogue, self._pool.pods)
        self._host = _host_resolver(resolv_conf)
        self._busy: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._attached: set[str] = set()

    async def setup_node(self) -> None:
        """Bridge, sysctls, guard, an empty Service table and the CNI directories. Raises NetworkError."""
        try:
            await link.setup_bridge(self._config)
            async with self._proxy.lock:
                await nft(link.guard_ruleset(self._pool.pods()))
            await self._proxy.setup()
            self._chain.install_main()
        except (CommandError, OSError) as error:
            raise NetworkError(f"node {self._config.node_name}: network cannot be set up: {error}") from error

    async def attach(self, pod: PodRef, host_network: bool) -> PodNetwork:
        """Give the pod its namespace and address; runs the chained plugins. Idempotent. Raises NetworkError(reason)."""
        if host_network:
            return PodNetwork(f"/proc/{os.getpid()}/ns/net", self._config.node_ip)
        lock = self._busy.setdefault(pod.uid, asyncio.Lock())
        async with lock:
            return await self._attach(pod)

    async def _attach(self, pod: PodRef) -> PodNetwork:
        netns = self._netns(pod)
        try:
            ip = self._pool.allocate(pod.uid)
        except AddressesExhaustedError as error:
            raise NetworkError(str(error)) from error
        if pod.uid in self._attached and namespaces.is_pinned(netns):
            return PodNetwork(str(netns), ip)
        try:
            if not await self._adopt(pod, ip, netns):
                await link.remove(self._config, ip, netns)
                await asyncio.gather(link.create(self._config, ip, netns), self._admit(ip))
                await self._chain.add(pod, netns, self._result(ip, netns))
                self._pool.mark_wired(pod.uid)
        except (CommandError, OSError) as error:
            await self._detach(pod)
            raise NetworkError(f"pod {pod}: network cannot be made: {error}") from error
        except NetworkError:
            await self._detach(pod)
            raise
        self._attached.add(pod.uid)
        return PodNetwork(str(netns), ip)

    async def _adopt(self, pod: PodRef, ip: str, netns: Path) -> bool:
        """A pod that runs since before this process started keeps its wiring; only the pin may have to be made
        again.
        """
        if not await link.exists(link.node_side(ip)) or not self._pool.is_wired(pod.uid):
            return False
        return namespaces.is_pinned(netns) or await namespaces.pin_again(netns, pod.uid)

    async def _admit(self, ip: str) -> None:
        async with self._proxy.lock:
            await nft(
                f"add element bridge {link.GUARD_TABLE} senders {{ {link.guard_element(ip)} }}\n"
                f"add element ip {TABLE} hairpin {{ {ip} . {ip} }}\n"
            )

    async def detach(self, pod: PodRef) -> None:
        """Run the plugins' DEL and take back link, address and pin. Idempotent. Raises NetworkError."""
        lock = self._busy.setdefault(pod.uid, asyncio.Lock())
        async with lock:
            try:
                await self._detach(pod)
            except (CommandError, OSError) as error:
                raise NetworkError(f"pod {pod}: network cannot be removed: {error}") from error

    async def _detach(self, pod: PodRef) -> None:
        ip, netns = self._pool.address(pod.uid), self._netns(pod)
        self._attached.discard(pod.uid)
        if ip is None:
            return
        await self._chain.delete(pod, netns, self._result(ip, netns))
        await link.remove(self._config, ip, netns)
        async with self._proxy.lock:
            await nft(
                # added first, so that the removal holds however far an attach had come
                f"add element bridge {link.GUARD_TABLE} senders {{ {link.guard_element(ip)} }}\n"
                f"delete element bridge {link.GUARD_TABLE} senders {{ {link.guard_element(ip)} }}\n"
                f"add element ip {TABLE} hairpin {{ {ip} . {ip} }}\n"
                f"delete element ip {TABLE} hairpin {{ {ip} . {ip} }}\n"
            )
            self._pool.release(pod.uid)

    async def run(self) -> None:
        """Serve VIPs and DNS forever."""
        zone = Zone(
            self._config.cluster_domain,
            self._catalogue,
            _Namespaces(self._namespaces),
            (ipaddress.IPv4Network(self._config.service_cidr), ipaddress.IPv4Network(self._config.cluster_pods)),
        )
        upstream = Upstream(self._config.upstream_resolvers or self._host.nameservers)
        server = DnsServer(zone, upstream, self._config.dns_ip)
        async with asyncio.TaskGroup() as group:
            for informer in (self._services, self._slices, self._namespaces):
                group.create_task(informer.run())
            await asyncio.gather(*(i.synced() for i in (self._services, self._slices, self._namespaces)))
            group.create_task(self._proxy.run())
            async with server.serve():
                log.info("Service addresses and DNS are served", dns=self._config.dns_ip)
                await asyncio.Event().wait()

    def resolv_conf(self, namespace: str, dns_policy: str) -> str:
        """/etc/resolv.conf for a pod, as a kubelet writes it; empty for dnsPolicy None (the pod's dnsConfig says it
        all).
        """
        if dns_policy == "None":
            return ""
        if dns_policy == "Default":
            # A resolver on the host's loopback is out of a pod's reach; our own server forwards to it.
            reachable = [self._config.dns_ip if a.startswith("127.") else a for a in self._host.nameservers]
            return _render_resolv_conf(list(dict.fromkeys(reachable)), self._host.search, self._host.options)
        domain = self._config.cluster_domain
        search = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *self._host.search)
        return _render_resolv_conf((self._config.dns_ip,), search, ("ndots:5",))

    def _netns(self, pod: PodRef) -> Path:
        return self._config.netns_dir / pod.uid

    def _result(self, ip: str, netns: Path) -> dict[str, object]:
        return first_result(ip, mac_of(ip), self._config.gateway, link.node_side(ip), netns)


def _host_resolver(path: Path) -> HostResolver:
    return parse_resolv_conf(path.read_text()) if path.exists() else HostResolver((), (), ())


def _render_resolv_conf(nameservers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> str:
    lines = [f"nameserver {address}" for address in nameservers]
    domains = list(dict.fromkeys(search))[:MAX_SEARCH_DOMAINS]
    if domains:
        lines.append(f"search {' '.join(domains)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "".join(line + "\n" for line in lines)
