"""`istioctl proxy-config` from a recorded dump of a waypoint's Envoy."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.istioctl import golden
from tulle.cli.console import CommandError
from tulle.cli.envoy_dump import EnvoyDumpError, address, joined, parse
from tulle.cli.envoy_tables import SECTIONS, ClusterName, Filter, chain_match, cluster_kind, cluster_name, route_match
from tulle.cli.istioctl import app
from tulle.cli.proxy_config import log_paths

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize("section", SECTIONS)
def test_tables(section: str) -> None:
    dump = parse(golden.read("waypoint.json"))
    golden.matches(f"waypoint.{section}", SECTIONS[section].table(dump, Filter(), NOON))


def run(arguments: str, code: int = 0) -> str:
    command, *rest = arguments.split()
    file = str(golden.RECORDED / "waypoint.json")
    result = CliRunner().invoke(app, ["pc", command, *rest, "-f", file])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("l", {"connect_originate", "connect_terminate", "main_internal"}),
        ("listener --port 15008", {"connect_terminate"}),
        ("listeners --name main_internal", {"main_internal"}),
        ("c --port 5000", {"Service/hello/helloworld|5000"}),
        ("clusters --fqdn Service/hello/helloworld", {"Service/hello/helloworld|5000"}),
        ("cluster --fqdn connect_originate", {"connect_originate"}),
        ("r --name connect_terminate", {"connect_terminate"}),
        ("s", {"ROOTCA", "spiffe://cluster.local/ns/hello/sa/waypoint"}),
    ],
)
def test_filters_aliases_and_documents(arguments: str, names: set[str]) -> None:
    assert {one["name"] for one in json.loads(run(f"{arguments} -o json"))} == names
    assert {one["name"] for one in yaml.safe_load(run(f"{arguments} -o yaml"))} == names


def test_endpoints_of_a_cluster() -> None:
    found = run("ep --cluster Service/hello/helloworld|5000").splitlines()[1:]
    assert [line.split()[0] for line in found] == [
        "envoy://connect_originate/10.244.1.4:5000",
        "envoy://connect_originate/10.244.1.5:5000",
    ]


def test_all() -> None:
    text = run("all")
    assert [part.split()[0] for part in text.split("\n\n")] == [
        "SERVICE",
        "NAME",
        "NAME",
        "ENDPOINT",
        "RESOURCE",
        "ECDS",
    ]
    assert json.loads(run("a -o json"))["configs"]


def test_no_private_key_is_shown() -> None:
    for secret in json.loads(run("secret -o json")):
        key = secret["secret"].get("tls_certificate", {}).get("private_key", {}).get("inline_bytes", "")
        assert base64.b64decode(key) in (b"", b"[redacted]")


def test_refusals() -> None:
    assert "name a pod as NAME.NAMESPACE, or give --file" in run("l some.pod", code=1)
    assert "--output 'xml' is not known" in run("l -o xml", code=1)
    with pytest.raises(EnvoyDumpError):
        parse(golden.read("ztunnel.json"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("outbound|80||a.b.svc.cluster.local", ClusterName("a.b.svc.cluster.local", "80", "-", "outbound")),
        ("inbound-vip|80|http|x", ClusterName("x", "80", "http", "inbound-vip")),
        ("Service/a/b|80", ClusterName("Service/a/b", "80")),
        ("xds-grpc", ClusterName("xds-grpc")),
        ("a|b|c", ClusterName("a|b|c")),
    ],
)
def test_cluster_names(name: str, expected: ClusterName) -> None:
    assert cluster_name(name) == expected


@pytest.mark.parametrize(
    ("cluster", "kind"),
    [
        ({"type": "EDS"}, "EDS"),
        ({"type": "STRICT_DNS"}, "STRICT_DNS"),
        ({}, "STATIC"),
        ({"cluster_type": {"name": "envoy.clusters.aggregate"}}, "envoy.clusters.aggregate"),
        ({"cluster_type": {"name": "envoy.cluster.dns", "typed_config": {"respect_dns_ttl": True}}}, "STRICT_DNS"),
        (
            {"cluster_type": {"name": "envoy.cluster.dns", "typed_config": {"all_addresses_in_single_endpoint": True}}},
            "LOGICAL_DNS",
        ),
    ],
)
def test_how_a_cluster_finds_its_endpoints(cluster: dict[str, Any], kind: str) -> None:
    assert cluster_kind(cluster) == kind


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, "ALL"),
        ({"destination_port": 80}, "Addr: *:80"),
        ({"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}, "Addr: 10.0.0.0/8"),
        (
            {"prefix_ranges": [{"address_prefix": "fd00::1", "prefix_len": 128}], "destination_port": 1},
            "Addr: [fd00::1]:1",
        ),
        (
            {"transport_protocol": "tls", "application_protocols": ["h2", "x"], "server_names": ["a"]},
            "Trans: tls; App: h2,x; SNI: a",
        ),
    ],
)
def test_filter_chain_matches(match: dict[str, Any], expected: str) -> None:
    assert chain_match(match) == expected


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"prefix": "/"}, "/*"),
        ({"prefix": "/api/"}, "/api/*"),
        ({"path": "/x"}, "/x"),
        ({"path_separated_prefix": "/x"}, "/x*"),
        ({"safe_regex": {"regex": "/a.*"}}, "regex /a.*"),
        ({"connect_matcher": {}}, "CONNECT"),
        ({"prefix": "/", "headers": [{"name": "x"}]}, "/* (headers)"),
        ({"something_new": {}}, "*"),
    ],
)
def test_route_matches(match: dict[str, Any], expected: str) -> None:
    assert route_match(match) == expected


def test_of_a_choice_of_routes_by_client_the_last_resort_stands_for_all() -> None:
    last = {"action": {"name": "s", "typed_config": {"match": {"prefix": "/"}}}}
    host = {"name": "Service/hello/s", "domains": ["*"], "matcher": {"on_no_match": last}}
    configuration = {"route_config": {"name": "Service/hello/s|80", "virtual_hosts": [host]}}
    kind = "type.googleapis.com/envoy.admin.v3.RoutesConfigDump"
    dump = parse(json.dumps({"configs": [{"@type": kind, "dynamic_route_configs": [configuration]}]}))
    _, row = SECTIONS["route"].table(dump, Filter(), NOON).splitlines()
    assert row.split() == ["Service/hello/s|80", "Service/hello/s", "*", "/*"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"socket_address": {"address": "10.0.0.1", "port_value": 80}}, "10.0.0.1:80"),
        ({"socket_address": {"address": "fd00::1", "port_value": 80}}, "[fd00::1]:80"),
        ({"pipe": {"path": "/x"}}, "/x"),
        ({"envoy_internal_address": {"server_listener_name": "a", "endpoint_id": "b"}}, "envoy://a/b"),
    ],
)
def test_addresses(raw: dict[str, Any], expected: str) -> None:
    assert joined(*address(raw)) == expected


def started() -> str:
    """A dump with what a proxy was started with, and a filter that is configured by itself."""
    node = {"id": "waypoint~1", "user_agent_build_version": {"version": {"major_number": 1, "minor_number": 37}}}
    kind = "type.googleapis.com/envoy.admin.v3."
    filters = {"name": "tokens", "typed_config": {"@type": "type.googleapis.com/a.b.JwtAuthentication"}}
    configs = [
        {"@type": f"{kind}BootstrapConfigDump", "bootstrap": {"node": node}},
        {"@type": f"{kind}EcdsConfigDump", "ecds_filters": [{"ecds_filter": filters}]},
    ]
    return json.dumps({"configs": configs})


def test_bootstrap_and_extensions(tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_text(started())

    def shown(*words: str) -> str:
        result = CliRunner().invoke(app, ["pc", *words, "-f", str(file)])
        assert result.exit_code == 0, result.output
        return result.output

    assert json.loads(shown("bootstrap"))["bootstrap"]["node"]["id"] == "waypoint~1"
    assert yaml.safe_load(shown("b", "-o", "yaml"))["bootstrap"]["node"]["id"] == "waypoint~1"
    assert shown("b", "-o", "short").split() == [
        *("Node:", "waypoint~1"),
        *("Istio", "Version:", "unknown"),
        *("Envoy", "Version:", "1.37.0"),
    ]
    assert shown("ecds").split() == ["ECDS", "NAME", "TYPE", "tokens", "a.b.JwtAuthentication"]
    assert json.loads(shown("ec", "-o", "json"))[0]["name"] == "tokens"


@pytest.mark.parametrize(
    ("level", "reset", "paths"),
    [
        ("", False, ("/logging",)),
        ("debug", False, ("/logging?level=debug",)),
        ("rbac:debug,http=info", False, ("/logging?rbac=debug", "/logging?http=info")),
        ("", True, ("/logging?level=warning",)),
    ],
)
def test_log_levels(level: str, reset: bool, paths: tuple[str, ...]) -> None:
    assert log_paths(level, reset) == paths


def test_log_levels_that_are_refused() -> None:
    for level, reset in (("loud", False), ("debug", True)):
        with pytest.raises(CommandError, match="--level"):
            log_paths(level, reset)
    for group in ("pc", "zc"):
        result = CliRunner().invoke(app, [group, "log", "x", "-o", "json"])
        assert result.exit_code == 1
        assert "not applicable" in result.output
