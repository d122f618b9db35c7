"""`istioctl ztunnel-config` from recorded dumps: this mesh's own, and one in the shape of a stock ztunnel."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.istioctl import golden
from tulle.cli.console import CommandError
from tulle.cli.istioctl import app
from tulle.cli.ztunnel_config import LEVELS, log_query
from tulle.cli.ztunnel_dump import DumpError, parse
from tulle.cli.ztunnel_tables import SECTIONS, Filter, everything, waypoint_name

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
DUMPS = ("ztunnel", "ztunnel-stock")


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("section", SECTIONS)
def test_tables(dump: str, section: str) -> None:
    found = parse(golden.read(f"{dump}.json"))
    golden.matches(f"{dump}.{section}", SECTIONS[section].table(found, Filter(), NOON))


@pytest.mark.parametrize("headers", [True, False])
def test_everything(headers: bool) -> None:
    dump = parse(golden.read("ztunnel.json"))
    golden.matches(f"ztunnel.all{'-headers' * headers}", everything(dump, NOON, headers=headers))


def test_raw_connections() -> None:
    dump = parse(golden.read("ztunnel.json"))
    golden.matches("ztunnel.connections-raw", SECTIONS["connections"].table(dump, Filter(raw=True), NOON))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("workload", {"cart-1", "cart-2", "vm"}),
        ("w --workload-namespace SHOP", {"cart-1", "cart-2", "vm"}),
        ("workloads --workload-node w2", {"cart-2"}),
        ("w --address 10.1.0.4", {"cart-1"}),
        ("w --address 10.1.0.99", set()),
        ("svc --service-namespace other", set()),
        ("s", {"cart", "wp"}),
        ("policies --policy-namespace shop", {"web"}),
        ("pol", {"all", "web"}),
    ],
)
def test_filters_aliases_and_documents(arguments: str, names: set[str]) -> None:
    for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert {one["name"] for one in read(run(f"{arguments} -o {output}"))} == names
    table = run(arguments).splitlines()[1:]
    assert {line.split()[1] for line in table} == names


@pytest.mark.parametrize(
    ("arguments", "directions"),
    [
        ("cons", ["Inbound", "Outbound"]),
        ("connections --direction inbound", ["Inbound"]),
        ("cons --direction=Outbound --raw=true", ["Outbound"]),
        ("cons --workload-namespace x", []),
    ],
)
def test_connection_filters(arguments: str, directions: list[str]) -> None:
    assert [line.split()[1] for line in run(arguments).splitlines()[1:]] == directions


def run(arguments: str, code: int = 0) -> str:
    command, *rest = arguments.split()
    file = str(golden.RECORDED / "ztunnel-stock.json")
    result = CliRunner().invoke(app, ["zc", command, *rest, "--file", file])
    assert result.exit_code == code, result.output
    return result.output


def test_a_dump_from_stdin() -> None:
    result = CliRunner().invoke(app, ["ztunnel-config", "all", "-f", "-"], input=golden.read("ztunnel.json"))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("NAMESPACE")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("w pod", "at most one of --file, --node or a pod's name can be given"),
        ("w --node n", "at most one of --file, --node or a pod's name can be given"),
        ("w -o xml", "--output 'xml' is not known; accepted are short, json, yaml"),
        ("cons --direction up", "--direction 'up' is not known; accepted are inbound, outbound"),
    ],
)
def test_refusals(arguments: str, message: str) -> None:
    assert message in run(arguments, code=1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"configs": []}', "workloads"])
def test_what_is_no_dump(text: str) -> None:
    with pytest.raises(DumpError):
        parse(text)


def test_a_certificate_that_is_none() -> None:
    broken = {"workloads": [], "certificates": [{"identity": "x", "certChain": [{"pem": "nonsense"}]}]}
    with pytest.raises(DumpError, match="certificates: x: entry 0 is no certificate"):
        parse(json.dumps(broken))
    broken["certificates"][0]["certChain"] = [{"validFrom": "yesterday"}]  # type: ignore[index]
    with pytest.raises(DumpError, match="validFrom: found 'yesterday'"):
        parse(json.dumps(broken))


def test_names_of_waypoints() -> None:
    services = parse(golden.read("ztunnel-stock.json")).services
    assert [waypoint_name(w, services) for w in ("", "net/10.2.0.9", "shop/wp.shop.svc.cluster.local", "x/y")] == [
        "None",
        "wp",
        "wp",
        "NA",
    ]


@pytest.mark.parametrize(
    ("level", "reset", "query"),
    [
        ("", False, ""),
        ("", True, "?level=info&reset="),
        ("warning", False, "?level=warn"),
        ("access:debug,info", False, "?level=access=debug,info"),
        ("ztunnel::xds=trace", False, "?level=ztunnel::xds=trace"),
        ("critical", False, "?level=error"),
    ],
)
def test_log_levels(level: str, reset: bool, query: str) -> None:
    assert log_query(level, reset) == query


@pytest.mark.parametrize(("level", "reset"), [("info", True), ("loud", False), ("a:b:info", False), ("x:loud", False)])
def test_log_levels_that_are_none(level: str, reset: bool) -> None:
    with pytest.raises(CommandError):
        log_query(level, reset)


@given(st.text(max_size=30))
def test_any_level_is_either_refused_or_built_of_known_levels(level: str) -> None:
    try:
        query = log_query(level, False)
    except CommandError:
        return
    assert not level or any(word in query for word in (*LEVELS, "warn"))


@given(st.dictionaries(st.sampled_from(["name", "namespace", "hostname", "waypoint", "endpoints", "vips"]), st.none()))
def test_services_with_fields_missing(fields: dict[str, Any]) -> None:
    dump = parse(json.dumps({"workloads": None, "services": [fields]}))
    assert SECTIONS["service"].table(dump, Filter(), NOON).splitlines()[1].endswith("None     0/0")
