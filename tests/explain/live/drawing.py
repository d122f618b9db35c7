"""Random rounds: what a mesh is told, and what is then asked of it. Values are few, so that rules and requests often meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.security.live.drawing import drawn
from tulle.manifests import PROFILES

from . import ground

KEYS = tuple(PROFILES["istio"])
NAMESPACES = ("one", "two", "app", "legacy")
ACCOUNTS = ("one/alice", "one/default", "two/default")
PRINCIPALS = tuple("cluster.local/ns/{}/sa/{}".format(*one.split("/")) for one in ACCOUNTS)
METHODS = ("GET", "GET", "HEAD", "POST", "DELETE")
PATHS = ("/", "/a", "/a/b", "/A", "/a//b", "/a/../b", "/a%2Fb", "/a/b?x=1", "/b.css")
TEAMS = ("red", "blue", "bluebird")
SECURE = "https://issuer.example"


@dataclass(frozen=True)
class Placed:
    """An object to create; names are unique in a round."""

    kind: str
    namespace: str
    name: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A request. `token` names what it carries: "", "valid", "expired" or "foreign"; `forwarded` is an X-Forwarded-For."""

    client: str
    method: str
    base: str
    path: str
    host: str = ""
    teams: tuple[str, ...] = ()
    token: str = ""
    forwarded: str = ""


@dataclass(frozen=True)
class Round:
    settings: dict[str, bool]
    objects: tuple[Placed, ...]
    cases: tuple[Case, ...]


# -- policies


def weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of them, each as often as its weight says."""
    return st.sampled_from([one for weight, one in choices for _ in range(weight)]).flatmap(lambda one: one)


def some(values: Any) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


def _fields(**values: tuple[str, ...]) -> st.SearchStrategy[dict[str, list[str]]]:
    both = {}
    for name, accepted in values.items():
        both[name] = some(accepted)
        both["not" + name[0].upper() + name[1:]] = some(accepted)
    names = st.lists(st.sampled_from([*values, *both]), min_size=1, max_size=2, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: both[name] for name in chosen}))


_PRINCIPALS = (*PRINCIPALS, "*", "cluster.local/ns/one/*", "*/sa/default", "cluster.local/ns/app/sa/waypoint")
_NAMESPACES = (*NAMESPACES, "o*", "*o")
_BLOCKS = ("10.244.0.0/16", "10.0.0.0/8", "192.0.2.0/24")
_PORTS = tuple(map(str, (80, 9000, 7000, ground.HTTP, ground.OPAQUE, ground.UNNAMED)))
_HOSTS = ("web.app", "web.app:*", "plain.app", "*.lab", "w.example")
_l4_sources = st.one_of(
    _fields(principals=_PRINCIPALS, namespaces=_NAMESPACES, ipBlocks=_BLOCKS),
    _fields(serviceAccounts=("one/alice", "two/default", "default")),
)
_http_sources = _fields(principals=_PRINCIPALS, requestPrincipals=(f"{SECURE}/s", "*"), remoteIpBlocks=_BLOCKS)
_l4_operations = _fields(ports=_PORTS)
_http_operations = _fields(
    methods=("GET", "POST", "HEAD", "P*", "*"),
    paths=("/a", "/a*", "*.css", "/{*}", "/a/{**}", "/b"),
    hosts=_HOSTS,
    ports=_PORTS,
)


def _condition(key: str, values: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda field, found: {"key": key, field: found}, st.sampled_from(("values", "notValues")), some(values)
    )


_l4_conditions = st.one_of(
    _condition("source.ip", _BLOCKS),
    _condition("source.namespace", _NAMESPACES),
    _condition("source.principal", _PRINCIPALS),
    _condition("destination.ip", ("10.244.0.0/16", "10.96.0.0/16")),
    _condition("destination.port", _PORTS),
)
_http_conditions = st.one_of(
    _l4_conditions,
    _condition("request.headers[x-team]", (*TEAMS, "blue*")),
    _condition("source.serviceAccount", ("one/alice", "default")),
    _condition("request.auth.claims[team]", TEAMS),
    _condition("request.auth.principal", (f"{SECURE}/s", "*")),
)


def _rules(sources: Any, operations: Any, conditions: Any) -> st.SearchStrategy[list[dict[str, Any]]]:
    rule = st.fixed_dictionaries(
        {},
        optional={
            "from": st.lists(st.fixed_dictionaries({"source": sources}), min_size=1, max_size=2),
            "to": st.lists(st.fixed_dictionaries({"operation": operations}), min_size=1, max_size=2),
            "when": st.lists(conditions, min_size=1, max_size=1),
        },
    )
    return st.lists(rule, min_size=1, max_size=3)


_l4_rules = _rules(_l4_sources, _l4_operations, _l4_conditions)
_http_rules = _rules(st.one_of(_l4_sources, _http_sources), _http_operations, _http_conditions)
_lifted_rules = _rules(_fields(principals=_PRINCIPALS), _http_operations, _http_conditions)
_any_rules = st.one_of(_l4_rules, _http_rules, _lifted_rules)


def _targets(*refs: tuple[str, str, str]) -> dict[str, Any]:
    return {"targetRefs": [{"group": group, "kind": kind, "name": name} for group, kind, name in refs]}


_GATEWAY = ("gateway.networking.k8s.io", "Gateway", "waypoint")
_CLASS = ("gateway.networking.k8s.io", "GatewayClass", "istio-waypoint")
_selectors = st.sampled_from(({"app": "web"}, {"app": "web"}, {"tier": "front"}, {"tier": "back"}, {"app": "old"}))
_selecting = st.tuples(
    st.sampled_from(("app", "app", "lab", "istio-system")),
    _selectors.map(lambda one: {"selector": {"matchLabels": one}}),
)
_targeting = st.tuples(
    st.sampled_from(("app", "app", "lab")),
    st.sampled_from(
        (
            _targets(("", "Service", "web")),
            _targets(("", "Service", "web"), ("", "Service", "plain")),
            _targets(_GATEWAY),
        )
    ),
)
_wide = st.sampled_from((("app", {}), ("lab", {}), ("istio-system", _targets(_CLASS)), ("istio-system", {})))
_places = weighted((5, _selecting), (5, _targeting), (1, _wide))
_checked = _fields(methods=("GET", "P*"), paths=("/a*", "/b.css"), ports=_PORTS).map(
    lambda operation: [{"to": [{"operation": operation}]}]
)
"""What an external authorizer may be asked about: nothing of who asks."""
_plain = st.tuples(st.sampled_from(("ALLOW", "DENY", "ALLOW", "DENY", "AUDIT")), _any_rules).map(
    lambda one: {"action": one[0], "rules": one[1]}
)
_asking = st.builds(
    lambda name, rules: {"action": "CUSTOM", "provider": {"name": name}, "rules": rules},
    st.sampled_from(("nobody", *ground.AUTHORIZERS, *ground.AUTHORIZERS)),
    _checked,
)
_actions = weighted((10, _plain), (2, _asking))
_authorization = st.builds(lambda where, what: (where[0], {**where[1], **what}), _places, _actions)
_modes = st.sampled_from(("UNSET", "DISABLE", "PERMISSIVE", "STRICT"))
_peers = st.one_of(
    st.tuples(st.sampled_from(("istio-system", "app", "lab")), _modes.map(lambda mode: {"mtls": {"mode": mode}})),
    st.tuples(
        st.sampled_from(("app", "app", "lab", "legacy")),
        st.builds(
            lambda labels, mode, ports: {
                "selector": {"matchLabels": labels},
                "mtls": {"mode": mode},
                **({"portLevelMtls": {port: {"mode": one} for port, one in ports.items()}} if ports else {}),
            },
            _selectors,
            _modes,
            st.dictionaries(st.sampled_from((80, ground.HTTP, ground.OPAQUE, ground.UNNAMED)), _modes, max_size=2),
        ),
    ),
)
_tokens = st.sampled_from(
    (("app", _targets(("", "Service", "web"))), ("app", _targets(_GATEWAY)), ("lab", _targets(_GATEWAY)))
)


# -- requests


def _cases(addresses: dict[str, str]) -> st.SearchStrategy[Case]:
    services = [f"http://web.{namespace}{port}" for namespace in ("app", "lab") for port in ("", ":9000", ":7000")]
    pods = [
        f"http://{addresses[pod]}:{port}"
        for pod in ("app/web", "app/bound")
        for port in (ground.HTTP, ground.OPAQUE, ground.UNNAMED, ground.UNDECLARED)
    ]
    rest = [
        "http://plain.app", "http://plain.app:9000", "http://plain.app:7000", "http://bound.app", "http://headless.app:8080",
        "http://old.legacy", f"http://{addresses['legacy/old']}:{ground.HTTP}", f"http://{addresses['lab/web']}:{ground.HTTP}",
        "http://empty.app", "http://empty.app:9000", "http://web.app:81", "http://plain.app:81", "http://none.app.svc.cluster.local",
    ]  # fmt: skip
    bases = weighted((3, st.sampled_from(services)), (2, st.sampled_from(pods)), (2, st.sampled_from(rest)))
    return st.builds(
        Case,
        st.sampled_from((*ground.CLIENTS, *ACCOUNTS)),
        st.sampled_from(METHODS),
        bases,
        st.sampled_from(PATHS),
        st.sampled_from(("", "", "", "w.example", "WEB.app", "web.app:80")),
        st.lists(st.sampled_from(TEAMS), max_size=2).map(tuple),
        st.sampled_from(("", "", "", "valid", "expired", "foreign")),
        st.sampled_from(("", "", "192.0.2.9", "192.0.2.9, 203.0.113.4", "nobody")),
    )


def rounds(count: int, cases: int, number: int, addresses: dict[str, str], jwks: str) -> list[Round]:
    """`count` rounds of `cases` requests, the same for the same number. The first two have the settings of the profiles."""
    authentication = {"jwtRules": [{"issuer": SECURE, "jwks": jwks}]}
    told = st.tuples(
        st.lists(_authorization, min_size=2, max_size=6),
        st.lists(_peers, max_size=3),
        st.lists(_tokens, max_size=1),
        st.fixed_dictionaries({key: st.booleans() for key in KEYS}),
    )
    found = drawn(told, count + 3, number)[3:]
    asked = drawn(_cases(addresses), count * cases + 1, number + 1)[1:]
    made = []
    for index, (policies, peers, tokens, switches) in enumerate(found):
        objects = [Placed("AuthorizationPolicy", place, f"p{i}", spec) for i, (place, spec) in enumerate(policies)]
        objects += [Placed("PeerAuthentication", place, f"m{i}", spec) for i, (place, spec) in enumerate(peers)]
        objects += [
            Placed("RequestAuthentication", place, f"t{i}", {**spec, **authentication})
            for i, (place, spec) in enumerate(tokens)
        ]
        settings = [dict(PROFILES["lesson"]), dict(PROFILES["istio"])][index] if index < 2 else dict(switches)
        made.append(Round(settings, tuple(objects), tuple(asked[index * cases : (index + 1) * cases])))
    return made
