"""Policies and requests in a small world, so that what is generated often meets."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tulle.security.decision import HttpRequest, Request
from tulle.security.model import AuthorizationPolicy, PeerAuthentication
from tulle.security.views import WaypointView, WorkloadView

from . import world

NAMESPACES = ("hello", "test", "web")
ACCOUNTS = ("default", "a.b", "waypoint")
IPS = ("10.244.0.9", "10.244.1.7", "192.0.2.7", "198.51.100.9", "2001:db8::7")
PORTS = ("80", "5000", "9090")
METHODS = ("GET", "HEAD", "POST")
PATHS = ("/", "/a", "/a/b", "/a/../b", "//a", "/a%2Fb", "/a?x=1", "/a/b.css")
HOSTS = ("h", "H", "h:80", "w.example")
HEADER_VALUES = ("red", "blue", "bluebird")
SENT_VALUES = (*HEADER_VALUES, "red, blue", "x,bluebird ,y", ",")
LABELS = ({"app": "helloworld"}, {"version": "v1"}, {"app": "helloworld", "version": "v1"}, {"app": "other"})

PRINCIPALS = tuple(f"cluster.local/ns/{ns}/sa/{sa}" for ns in NAMESPACES for sa in ACCOUNTS)


def some(values: Any) -> st.SearchStrategy[list[str]]:
    """A short list without repetition."""
    return st.lists(values, min_size=1, max_size=2, unique=True)


principal_patterns = st.sampled_from(
    (*PRINCIPALS, "*", "cluster.local/ns/test/*", "*/sa/default", "*/sa/a.b", "old/ns/x/sa/y")
)
# A star that is not alone at one end means different things at ztunnel and at a waypoint.
namespace_patterns = st.sampled_from((*NAMESPACES, "*", "te*", "*st", "t*t", "*e*", "**"))
cidrs = st.sampled_from(
    ("10.244.0.0/16", "10.244.0.9", "192.0.2.0/24", "198.51.100.9", "198.51.100.0/28", "2001:db8::/32", "0.0.0.0/0")
)
path_patterns = st.sampled_from(("/a", "/a*", "*.css", "*", "/{*}", "/a/{**}", "/{*}/b", "/b"))
host_patterns = st.sampled_from(("h", "h:*", "*.example", "*", "W.example"))
method_patterns = st.sampled_from((*METHODS, "*", "P*"))
header_patterns = st.sampled_from((*HEADER_VALUES, "*", "blue*", "*bird", "red, blue"))
token_patterns = st.sampled_from(("i/s", "i/*", "*/s", "*", "i*", "j/s"))


def _fields(**values: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, list[str]]]:
    both: dict[str, Any] = {}
    for name, strategy in values.items():
        both[name] = some(strategy)
        both["not" + name[0].upper() + name[1:]] = some(strategy)
    return st.lists(st.sampled_from(sorted(both)), min_size=1, max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: both[name] for name in names})
    )


l4_sources = st.one_of(
    _fields(principals=principal_patterns, namespaces=namespace_patterns, ipBlocks=cidrs),
    _fields(serviceAccounts=st.sampled_from(("default", "a.b", "test/default", "web/a.b")), ipBlocks=cidrs),
)
http_sources = _fields(principals=principal_patterns, requestPrincipals=token_patterns, remoteIpBlocks=cidrs)
l4_operations = _fields(ports=st.sampled_from(PORTS))
http_operations = _fields(
    ports=st.sampled_from(PORTS), methods=method_patterns, paths=path_patterns, hosts=host_patterns
)


def _condition(key: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.fixed_dictionaries({"key": st.just(key), "values": some(values)}),
        st.fixed_dictionaries({"key": st.just(key), "notValues": some(values)}),
        st.fixed_dictionaries({"key": st.just(key), "values": some(values), "notValues": some(values)}),
    )


l4_conditions = st.one_of(
    _condition("source.ip", cidrs),
    _condition("source.namespace", namespace_patterns),
    _condition("source.principal", principal_patterns),
    _condition("destination.ip", st.sampled_from(("10.244.0.0/16", "10.96.0.0/16"))),
    _condition("destination.port", st.sampled_from(PORTS)),
)
http_conditions = st.one_of(
    l4_conditions,
    _condition("request.headers[x-team]", header_patterns),
    _condition("source.serviceAccount", st.sampled_from(("test/default", "default"))),
    _condition("source.trustDomain", st.sampled_from(("cluster.local", "clu*", "other"))),
    _condition("request.auth.claims[g]", header_patterns),
    _condition("request.auth.audiences", header_patterns),
    _condition("connection.sni", host_patterns),
    _condition("remote.ip", cidrs),
)


def _rules(sources: Any, operations: Any, conditions: Any) -> st.SearchStrategy[list[dict[str, Any]]]:
    rule = st.fixed_dictionaries(
        {},
        optional={
            "from": st.lists(st.fixed_dictionaries({"source": sources}), min_size=1, max_size=2),
            "to": st.lists(st.fixed_dictionaries({"operation": operations}), min_size=1, max_size=2),
            "when": st.lists(conditions, min_size=1, max_size=2),
        },
    )
    return st.lists(rule, min_size=1, max_size=2)


l4_rules = _rules(l4_sources, l4_operations, l4_conditions)
any_rules = st.one_of(l4_rules, _rules(st.one_of(l4_sources, http_sources), http_operations, http_conditions))
selectors = st.sampled_from(LABELS).map(lambda labels: {"selector": {"matchLabels": labels}})
attachments = st.one_of(
    selectors,
    st.just({}),
    st.sampled_from(
        (
            {"targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}]},
            {"targetRefs": [{"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "waypoint"}]},
        )
    ),
)


def specs(attachment: Any = attachments, rules: Any = any_rules) -> st.SearchStrategy[dict[str, Any]]:
    """Valid specs of AuthorizationPolicies with action ALLOW or DENY."""
    return st.builds(
        lambda where, action, found: {**where, "action": action, "rules": found},
        attachment,
        st.sampled_from(("ALLOW", "DENY")),
        rules,
    )


def policies(spec: Any = None, namespaces: Any = None) -> st.SearchStrategy[list[AuthorizationPolicy]]:
    """A few policies with names of their own."""
    spaces = namespaces if namespaces is not None else st.sampled_from(("hello", "hello", "istio-system", "web"))
    pairs = st.lists(st.tuples(specs() if spec is None else spec, spaces), max_size=3)
    return pairs.map(lambda found: [world.policy(s, f"p{i}", ns) for i, (s, ns) in enumerate(found)])


identity_sources = st.fixed_dictionaries(
    {"principals": some(principal_patterns)}, optional={"notPrincipals": some(principal_patterns)}
)
http_only = _fields(methods=method_patterns, paths=path_patterns, hosts=host_patterns)
qualifying_rules = st.lists(
    st.fixed_dictionaries(
        {
            "from": st.lists(st.fixed_dictionaries({"source": identity_sources}), min_size=1, max_size=2),
            "to": st.lists(st.fixed_dictionaries({"operation": http_only}), min_size=1, max_size=2),
        },
        optional={"when": st.lists(http_conditions, min_size=1, max_size=2)},
    ),
    min_size=1,
    max_size=2,
)


def lifted(name: str, labels: dict[str, str]) -> st.SearchStrategy[AuthorizationPolicy]:
    """A policy that qualifies for lifting."""
    return st.builds(
        lambda action, rules: world.policy(
            {"selector": {"matchLabels": labels}, "action": action, "rules": rules}, name
        ),
        st.sampled_from(("ALLOW", "DENY")),
        qualifying_rules,
    )


modes = st.sampled_from(("UNSET", "DISABLE", "PERMISSIVE", "STRICT"))
pa_specs = st.one_of(
    st.builds(lambda mode: {"mtls": {"mode": mode}}, modes),
    st.builds(
        lambda labels, mode, ports: {
            "selector": {"matchLabels": labels},
            "mtls": {"mode": mode},
            "portLevelMtls": {port: {"mode": value} for port, value in ports.items()},
        },
        st.sampled_from(LABELS),
        modes,
        st.dictionaries(st.sampled_from((80, 5000, 9090)), modes, max_size=3),
    ),
)
peer_authentications: st.SearchStrategy[list[PeerAuthentication]] = st.lists(
    st.tuples(pa_specs, st.sampled_from(("hello", "hello", "istio-system", "web")), st.integers(1, 3)), max_size=4
).map(
    lambda found: [
        world.peer_authentication(spec, f"pa{i}", ns, creationTimestamp=f"2026-01-0{day}T00:00:00Z")
        for i, (spec, ns, day) in enumerate(found)
    ]
)

clients = st.one_of(
    st.just("plaintext"), st.builds(lambda ns, sa: f"{ns}/{sa}", st.sampled_from(NAMESPACES), st.sampled_from(ACCOUNTS))
)
claims = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "iss": st.sampled_from(("i", "j")),
            "sub": st.just("s"),
            "aud": st.one_of(st.sampled_from(HEADER_VALUES), st.lists(st.sampled_from(HEADER_VALUES), max_size=2)),
            "g": st.one_of(st.sampled_from(HEADER_VALUES), st.lists(st.sampled_from(HEADER_VALUES), max_size=2)),
        },
    ),
)
calls = st.builds(
    HttpRequest,
    st.sampled_from(METHODS),
    st.sampled_from(PATHS),
    st.sampled_from(HOSTS),
    st.lists(st.tuples(st.just("x-team"), st.sampled_from(SENT_VALUES)), max_size=2).map(tuple),
    claims,
    st.sampled_from(("", *IPS)),
)


@st.composite
def requests(draw: Any, *, peers: Any = clients, http: Any = None, ready: Any = st.booleans()) -> Request:  # noqa: B008
    """A request to helloworld, directly, through the waypoint to the Service, or through it to the pod."""
    waypoints: tuple[WaypointView, ...] = (world.WAYPOINT,) if draw(ready) else ()
    target: WorkloadView = world.workload(waypoints=waypoints)
    path = draw(st.sampled_from(("direct", "service", "pod"))) if waypoints else "direct"
    to = world.service(target, ports=((80, 80), (5000, 5000), (9090, 9090))) if path == "service" else None
    port = int(draw(st.sampled_from(PORTS)))
    return world.request(
        draw(peers),
        target,
        port=port,
        via=None if path == "direct" else world.WAYPOINT,
        to=to,
        service_port=port,
        source_ip=draw(st.sampled_from(IPS)),
        call=draw(st.one_of(st.none(), calls) if http is None else http),
        sni=draw(st.sampled_from(("", "h", "w.example"))),
    )
