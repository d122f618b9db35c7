"""The custom resource definitions in use: columns, short names, defaults, and what their schemas refuse."""

import json
from typing import Any

import pytest
import yaml

from .conftest import CRDS, Cluster


def apply(cluster: Cluster, kind: str, spec: Any, version: str = "security.istio.io/v1", name: str = "x") -> str:
    """The error of a creation; "" when it is accepted."""
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return cluster.run("create", "-f", "-", stdin=json.dumps(body)).stderr


@pytest.mark.parametrize("path", sorted(CRDS.glob("*.yaml")), ids=lambda path: path.name)
def test_file_is_named_by_what_it_defines(path: Any) -> None:
    crd = yaml.safe_load(path.read_text())
    spec = crd["spec"]
    assert path.name == f"{spec['group']}_{spec['names']['plural']}.yaml"
    assert crd["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    assert [v["name"] for v in spec["versions"] if v["storage"]] == ["v1"]
    schemas = [version["schema"] for version in spec["versions"]]
    assert all(schema == schemas[0] for schema in schemas)


@pytest.mark.parametrize(
    ("kind", "spec", "columns"),
    [
        ("PeerAuthentication", {"mtls": {"mode": "STRICT"}}, "NAME MODE AGE | x STRICT"),
        ("AuthorizationPolicy", {"action": "DENY", "rules": [{}]}, "NAME ACTION AGE | x DENY"),
        ("RequestAuthentication", {}, "NAME AGE | x"),
    ],
)
def test_columns_in_both_versions(cluster: Cluster, kind: str, spec: Any, columns: str) -> None:
    assert apply(cluster, kind, spec, "security.istio.io/v1beta1") == ""
    short = "".join(letter for letter in kind if letter.isupper()).lower()
    header, row = cluster.kubectl("get", short).splitlines()
    assert f"{' '.join(header.split())} | {' '.join(row.split()[:-1])}" == columns
    versions = cluster.kubectl(
        "get", f"{kind.lower()}s.v1.security.istio.io".replace("ys.v1", "ies.v1"), "x", "-o", "yaml"
    )
    assert "apiVersion: security.istio.io/v1\n" in versions


@pytest.mark.parametrize(
    ("kind", "spec", "error"),
    [
        ("PeerAuthentication", {"mtls": {"mode": "Strict"}}, 'Unsupported value: "Strict"'),
        ("PeerAuthentication", {"mtlz": {}}, 'unknown field "spec.mtlz"'),
        ("AuthorizationPolicy", {"action": "allow"}, 'Unsupported value: "allow"'),
        ("AuthorizationPolicy", {"rules": [{"from": [{"source": {"principal": ["x"]}}]}]}, "unknown field"),
        ("AuthorizationPolicy", {"rules": [{"when": [{"values": ["x"]}]}]}, "when[0].key: Required value"),
        (
            "AuthorizationPolicy",
            {"targetRefs": [{"kind": "Service", "name": f"s{n}"} for n in range(17)]},
            "must have at most 16 items",
        ),
    ],
)
def test_what_the_schema_refuses(cluster: Cluster, kind: str, spec: Any, error: str) -> None:
    assert error in apply(cluster, kind, spec)


def test_every_field_of_a_policy_is_kept(cluster: Cluster) -> None:
    positive = ("principals", "requestPrincipals", "ipBlocks", "remoteIpBlocks", "namespaces", "trustDomains")
    source: dict[str, list[str]] = {}
    for name in positive:
        source |= {name: ["10.0.0.1"], "not" + name[0].upper() + name[1:]: ["10.0.0.2"]}
    operation: dict[str, list[str]] = {}
    for name in ("hosts", "ports", "methods", "paths"):
        operation |= {name: ["80"], "not" + name[0].upper() + name[1:]: ["81"]}
    accounts = {"serviceAccounts": ["a/b"], "notServiceAccounts": ["c"]}
    spec = {
        "action": "CUSTOM",
        "provider": {"name": "p"},
        "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"},
        "rules": [
            {
                "from": [{"source": source}, {"source": accounts}],
                "to": [{"operation": operation}],
                "when": [{"key": "source.ip", "values": ["1.1.1.1"], "notValues": ["2.2.2.2"]}],
            }
        ],
    }
    assert apply(cluster, "AuthorizationPolicy", spec) == ""
    assert json.loads(cluster.kubectl("get", "ap", "x", "-o", "json"))["spec"] == spec


def test_gateways_wait_for_their_controller(cluster: Cluster) -> None:
    group = "gateway.networking.k8s.io/v1"
    assert apply(cluster, "GatewayClass", {"controllerName": "example.com/c"}, group, cluster.namespace) == ""
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    assert apply(cluster, "Gateway", {"gatewayClassName": "istio-waypoint", "listeners": [listener]}, group) == ""
    classes = cluster.kubectl("get", "gc", cluster.namespace).splitlines()
    assert [line.split()[1:3] for line in classes] == [["CONTROLLER", "ACCEPTED"], ["example.com/c", "Unknown"]]
    header, row = cluster.kubectl("get", "gtw").splitlines()
    assert header.split() == ["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"]
    assert row.split()[:3] == ["x", "istio-waypoint", "Unknown"]
    path = "jsonpath={.spec.listeners[0].allowedRoutes.namespaces.from} {.status.conditions[*].type}"
    assert cluster.kubectl("get", "gtw", "x", "-o", path) == "Same Accepted Programmed"
    cluster.kubectl("delete", "gc", cluster.namespace)


def test_a_gateway_needs_listeners(cluster: Cluster) -> None:
    error = apply(cluster, "Gateway", {"gatewayClassName": "c"}, "gateway.networking.k8s.io/v1")
    assert "spec.listeners: Required value" in error


def test_routes_get_their_defaults(cluster: Cluster) -> None:
    group = "gateway.networking.k8s.io/v1"
    rule = {"backendRefs": [{"name": "s", "port": 80}]}
    spec = {"parentRefs": [{"name": "g"}], "hostnames": ["example.com"], "rules": [rule]}
    assert apply(cluster, "HTTPRoute", spec, group) == ""
    stored = json.loads(cluster.kubectl("get", "httproute", "x", "-o", "json"))["spec"]
    assert stored["parentRefs"] == [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}]
    assert stored["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert stored["rules"][0]["backendRefs"] == [{"group": "", "kind": "Service", "name": "s", "port": 80, "weight": 1}]
    assert cluster.kubectl("get", "httproute").splitlines()[1].split()[0] == "x"


def test_entries_of_the_mesh(cluster: Cluster) -> None:
    group = "networking.istio.io/v1"
    port = {"number": 443, "name": "tls", "protocol": "TLS"}
    entry = {"hosts": ["example.com"], "ports": [port], "location": "MESH_EXTERNAL", "resolution": "DNS"}
    assert apply(cluster, "ServiceEntry", entry, group) == ""
    assert cluster.kubectl("get", "se").splitlines()[1].split()[2:4] == ["MESH_EXTERNAL", "DNS"]
    assert apply(cluster, "WorkloadEntry", {"address": "10.0.0.1", "ports": {"http": 8080}}, group) == ""
    assert cluster.kubectl("get", "we").splitlines()[0].split() == ["NAME", "AGE", "ADDRESS"]
