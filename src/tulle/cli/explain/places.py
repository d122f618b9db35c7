"""Who asks, and for what: the two ends of a request, found in the world.

A client is more than a pod: the question may be about a pod that does not exist yet (a service account), about the kubelet's probes,
or about somebody outside the mesh. A target is what curl would be given, so it is resolved as the pod's resolver would resolve it.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from tulle.cli.explain.documents import InputError
from tulle.cli.explain.world import World
from tulle.cni import enrolment as capture
from tulle.istiod.index import labels as names
from tulle.istiod.index.convert import pod_uid
from tulle.istiod.index.records import Protocol, ServicePort
from tulle.istiod.index.state import ServiceState, WorkloadState
from tulle.security.identity import Identity, InvalidIdentity

DOMAIN = "cluster.local"
_STRANGE = re.compile(r"[^!-~]")
"""What no URL holds as it is. Sent all the same it is answered with 400 by a waypoint, whatever the policies say."""
_PORTS = {"http": 80, "https": 443, "tcp": 0}
_SERVICE_ACCOUNTS = frozenset({"serviceaccount", "sa"})
_WORKLOADS = frozenset(
    {"deployment", "deploy", "statefulset", "sts", "daemonset", "ds", "replicaset", "rs", "job", "cronjob"}
)


class Sort(enum.Enum):
    """How a client meets the mesh; the value is how a sentence calls it."""

    MESH = "captured by ztunnel"
    PLAIN = "outside the mesh"
    PENDING = "being captured, but no ztunnel has taken it yet"
    SIDECAR = "with a sidecar of its own"
    GATEWAY = "an ingress gateway, with a proxy of its own"
    KUBELET = "the node's kubelet"


@dataclass(frozen=True)
class Client:
    """Who asks. `identity` is what a server sees over mTLS, None in plaintext; `why` says why it is captured or is not."""

    what: str
    namespace: str
    sort: Sort
    why: str
    identity: Identity | None = None
    address: str = ""
    pod: WorkloadState | None = None

    @property
    def in_mesh(self) -> bool:
        return self.identity is not None


class Via(enum.Enum):
    """What the client's connection is addressed to."""

    SERVICE = "the Service's address"
    HEADLESS = "a pod's own address (the Service is headless)"
    POD = "the pod's own address"
    EXTERNAL = "an address outside the mesh"


@dataclass(frozen=True)
class Endpoint:
    """A workload that may answer, and its port."""

    state: WorkloadState
    port: int

    @property
    def name(self) -> str:
        record = self.state.record
        own = f"{record.namespace}/{record.name}"
        return f"{own}/{self._where}" if record.kind == "ServiceEntry" else own

    @property
    def what(self) -> str:
        """How a sentence calls it."""
        record = self.state.record
        own = f"{record.namespace}/{record.name}"
        return f"pod {own}" if self.is_pod else f"endpoint {self._where} ({record.kind} {own})"

    @property
    def is_pod(self) -> bool:
        return self.state.record.kind == "Pod"

    @property
    def _where(self) -> str:
        return next(iter(self.state.record.addresses), self.state.record.hostname)


@dataclass(frozen=True)
class Target:
    """What is asked for. `waiting` are workloads behind the Service that are not ready, so take no request. `problem`: it leads nowhere."""

    url: str
    scheme: str
    host: str
    port: int
    path: str
    via: Via
    service: ServiceState | None = None
    service_port: ServicePort | None = None
    endpoints: tuple[Endpoint, ...] = ()
    waiting: tuple[WorkloadState, ...] = ()
    problem: str = ""

    @property
    def what(self) -> str:
        if self.service is not None:
            record = self.service.record
            return f"{record.kind} {record.namespace}/{record.name}"
        return self.endpoints[0].what if self.endpoints else self.host

    @property
    def http(self) -> bool:
        """Whether the port is declared HTTP, so that a waypoint reads requests there."""
        if self.service_port is not None:
            return self.service_port.protocol.http
        return any(declared_http(endpoint.state, endpoint.port) for endpoint in self.endpoints)

    @property
    def undeclared(self) -> bool:
        """Whether the port does not say what it carries, so that a waypoint looks at the first bytes."""
        return self.service_port is not None and self.service_port.protocol is Protocol.UNKNOWN


def declared_http(state: WorkloadState, port: int) -> bool:
    """Whether some Service in front of a workload declares a target port as HTTP."""
    ports = (one for service in state.services for one in service.ports)
    return any(one.protocol.http for one in ports if one.target_port == port)


# --- the client


def client(world: World, text: str, namespace: str) -> Client:
    """Find the client: `pod/NAME`, `NAME`, `deployment/NAME`, `serviceaccount/NAME`, `spiffe://…`, `kubelet` or `outside`.

    Raises InputError.
    """
    if text == "outside":
        return Client("a client outside the mesh", namespace, Sort.PLAIN, "nobody captures its traffic")
    if text == "kubelet":
        why = (
            "probes come from the node itself and reach the pod before redirection: no policy sees them, STRICT neither"
        )
        return Client("the kubelet", namespace, Sort.KUBELET, why)
    if text.startswith("spiffe://"):
        return _identified(text)
    kind, slash, name = text.partition("/")
    if not slash:
        kind, name = "pod", text
    kind = kind.lower().removesuffix("s") if kind.lower() not in _WORKLOADS | _SERVICE_ACCOUNTS else kind.lower()
    if kind in _SERVICE_ACCOUNTS:
        return _account(world, text, Identity(world.settings.trust_domain, namespace, name))
    if kind in ("pod", "po"):
        state = world.index.workloads.get(pod_uid(namespace, name))
    elif kind in _WORKLOADS:
        state = next((one for one in _in(world, namespace) if _made_by(one, name)), None)
    else:
        raise InputError(
            f"client {text!r}: accepted are pod/NAME, deployment/NAME, serviceaccount/NAME, spiffe://…, kubelet and outside"
        )
    if state is None:
        raise InputError(_unknown(world, text, kind, namespace))
    return _pod(world, state)


def _in(world: World, namespace: str) -> Iterator[WorkloadState]:
    for uid in sorted(world.index.tables.workloads_in.get(namespace, ())):
        yield world.index.workloads[uid]


def _made_by(state: WorkloadState, name: str) -> bool:
    return state.record.workload_name == name or state.record.name == f"{name}-0"


def _unknown(world: World, text: str, kind: str, namespace: str) -> str:
    known = [one.record.name for one in _in(world, namespace) if one.record.kind == "Pod"]
    seen = f"its pods are {', '.join(known)}" if known else "it has no pod with an address"
    later = f"; for a pod that does not exist yet use serviceaccount/NAME in the place of {text}"
    return f"client {text!r}: no such {kind} with an address in namespace {namespace}; {seen}{later}"


def _identified(text: str) -> Client:
    try:
        identity = Identity.parse(text)
    except InvalidIdentity as error:
        raise InputError(f"client: {error}") from error
    why = "a pod with this identity, taken to be captured"
    return Client(text, identity.namespace, Sort.MESH, why, identity)


def _account(world: World, text: str, identity: Identity) -> Client:
    namespace, name = identity.namespace, identity.service_account
    try:
        Identity.parse(identity.spiffe)
    except InvalidIdentity as error:
        raise InputError(
            f"client {text!r}: in namespace {namespace!r} it would be {identity.spiffe}, which no pod can be; accepted are the names of a "
            "namespace and of a service account"
        ) from error
    why = "a pod with this service account, taken to be captured"
    return Client(f"service account {namespace}/{name}", namespace, Sort.MESH, why, identity)


def _pod(world: World, state: WorkloadState) -> Client:
    record = state.record
    meta = (world.manifest("Pod", record.namespace, record.name) or {}).get("metadata") or {}
    annotations = meta.get("annotations") or {}
    identity = Identity(state.trust_domain, record.namespace, record.service_account or "default")
    decided = capture_of(world, state)
    what, address = f"pod {record.namespace}/{record.name}", record.addresses[0] if record.addresses else ""
    if is_gateway(world, state):
        return Client(what, record.namespace, Sort.GATEWAY, "it is a gateway", identity, address, state)
    if capture.SIDECAR_STATUS in annotations:
        return Client(what, record.namespace, Sort.SIDECAR, decided.reason.value, identity, address, state)
    if record.hbone:
        return Client(what, record.namespace, Sort.MESH, decided.reason.value, identity, address, state)
    sort, why = Sort.PLAIN, decided.reason.value
    if annotations.get(names.REDIRECTION) == "pending":
        sort, why = Sort.PENDING, f"annotation {names.REDIRECTION}=pending"
    elif decided.captured:
        why = f"{why} asks for capture, but the node agent has not done it (no annotation {names.REDIRECTION}=enabled)"
    return Client(what, record.namespace, sort, why, None, address, state)


def capture_of(world: World, state: WorkloadState) -> capture.Enrolment:
    """Whether a pod is to be captured, by its labels and its namespace's (A1)."""
    record = state.record
    meta = (world.manifest("Pod", record.namespace, record.name) or {}).get("metadata") or {}
    facts = capture.PodFacts(record.namespace, record.labels, meta.get("annotations") or {}, record.host_network)
    return capture.enrolment(facts, world.labels("Namespace", "", record.namespace), frozenset())


def is_gateway(world: World, state: WorkloadState) -> bool:
    """Whether a pod is an ingress gateway: of the Gateway API with a class that is no waypoint's, or Istio's own."""
    record = state.record
    gateway = record.labels.get(names.GATEWAY_NAME)
    if gateway:
        known = world.index.waypoints.get((record.namespace, gateway))
        return known is None or known.class_name != names.WAYPOINT_CLASS
    return record.labels.get("istio") == "ingressgateway"


# --- the target


def target(world: World, url: str, namespace: str) -> Target:
    """Resolve a URL as a pod of `namespace` would. `NAME.NAMESPACE.pod` addresses a pod by its name. Raises InputError."""
    if strange := _STRANGE.search(url):
        written = quote(strange[0], errors="surrogatepass")
        raise InputError(
            f"URL {url!r}: found {strange[0]!r}; in a path it is written {written}, and a host's name in ASCII (IDNA, xn--…)"
        )
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        given = parts.port
    except ValueError as error:
        raise InputError(f"URL {url!r}: {error}") from error
    if parts.scheme not in _PORTS:
        raise InputError(f"URL {url!r}: found scheme {parts.scheme!r}; accepted are {', '.join(_PORTS)}")
    port = _PORTS[parts.scheme] if given is None else given
    host = (parts.hostname or "").rstrip(".")
    if not host or not port:
        raise InputError(f"URL {url!r}: accepted is scheme://host:port/path; a tcp:// URL needs its port")
    bare = Target(url, parts.scheme, host, port, _path(parts.path, parts.query), Via.EXTERNAL)
    service = _service(world, host, namespace)
    if service is not None:
        return _of_service(world, bare, service)
    pod = _addressed(world, host)
    if pod is not None:
        return _with(bare, Via.POD, endpoints=(Endpoint(pod, port),))
    if _local(world, host):
        return _with(bare, Via.EXTERNAL, problem=f"no Service or pod is called {host}")
    return bare


def _path(path: str, query: str) -> str:
    return (path or "/") + (f"?{query}" if query else "")


def _with(bare: Target, via: Via, **more: object) -> Target:
    return Target(bare.url, bare.scheme, bare.host, bare.port, bare.path, via, **more)  # type: ignore[arg-type]


def _local(world: World, host: str) -> bool:
    """Whether a name can only be meant for something in the cluster."""
    _, dot, rest = host.partition(".")
    return not dot or rest in world.index.tables.namespaces or host.endswith((".svc", f".svc.{DOMAIN}", ".pod"))


def _service(world: World, host: str, namespace: str) -> ServiceState | None:
    for hostname in _search(host, namespace):
        found = _nearest((one for one in world.index.services.values() if one.record.hostname == hostname), namespace)
        if found is not None:
            return found
    found = _nearest((one for one in world.index.services.values() if host in one.record.addresses), namespace)
    workload = _by_address(world, host)
    if found is None or workload is None:
        return found
    # As for a node proxy: a pod's address is its own, and a Service's is no other workload's.
    return found if found.record.kind == "Service" and workload.record.kind != "Pod" else None


def _nearest(services: Iterable[ServiceState], namespace: str) -> ServiceState | None:
    """The one that a client of the namespace means: its own namespace's, else the canonical one."""
    visible = (one for one in services if not one.record.namespace_only or one.record.namespace == namespace)
    return min(
        visible,
        key=lambda one: (
            one.record.namespace != namespace,
            one.record.kind != "Service",
            not one.canonical,
            one.record.key,
        ),
        default=None,
    )


def _search(host: str, namespace: str) -> Iterable[str]:
    """The names that a pod's resolver tries, in its order."""
    return (host, f"{host}.{namespace}.svc.{DOMAIN}", f"{host}.svc.{DOMAIN}", f"{host}.{DOMAIN}")


def _addressed(world: World, host: str) -> WorkloadState | None:
    first, _, rest = host.partition(".")
    namespace, _, tail = rest.partition(".")
    if tail in ("pod", f"pod.{DOMAIN}"):
        found = world.index.workloads.get(pod_uid(namespace, first))
        return found or _by_address(world, first.replace("-", "."))
    member = _service(world, rest, "") if rest else None
    if member is not None:
        return world.index.workloads.get(pod_uid(member.record.namespace, first))
    return _by_address(world, host)


def _by_address(world: World, text: str) -> WorkloadState | None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return None
    found = (one for one in world.index.workloads.values() if text in one.record.addresses)
    return min(found, key=lambda one: (one.record.kind != "Pod", not one.record.hbone, one.record.uid), default=None)


def _of_service(world: World, bare: Target, service: ServiceState) -> Target:
    record = service.record
    port = next((one for one in record.ports if one.port == bare.port), None)
    headless = not record.addresses
    via = Via.HEADLESS if headless and record.kind == "Service" else Via.SERVICE
    if port is None and not headless:
        offered = ", ".join(str(one.port) for one in record.ports) or "none"
        problem = f"{record.kind} {record.namespace}/{record.name} has no port {bare.port}; its ports are {offered}"
        return _with(bare, via, service=service, problem=problem)
    endpoints: list[Endpoint] = []
    waiting: list[WorkloadState] = []
    for uid in sorted(world.index.tables.members_of(record.key)):
        state = world.index.workloads.get(uid)
        if state is None:
            continue
        number = bare.port if headless else _target_port(state, record.key, bare.port)
        if not number:
            continue
        if state.record.ready or record.publish_not_ready:
            endpoints.append(Endpoint(state, number))
        else:
            waiting.append(state)
    return _with(bare, via, service=service, service_port=port, endpoints=tuple(endpoints), waiting=tuple(waiting))


def _target_port(state: WorkloadState, service: tuple[str, str], port: int) -> int:
    ports = next((one.ports for one in state.services if one.service == service), ())
    return next((one.target_port for one in ports if one.service_port == port), 0)
