"""The waypoint rows of the conformance table, asked of a real Envoy.

One Envoy runs with a listener per group, each with the emitted filters. The client's identity and the other inputs of a
waypoint are set from request headers. Requests are written raw, so that the path reaches Envoy as the row has it.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tulle.security.envoy_rbac import Inputs, http_filters, http_normalization
from tulle.security.policies import PolicySet

from . import world
from .conformance_rows import TABLES, build_policies
from .test_envoy_rbac import envoy_binary

INPUTS = Inputs(principal_key="peer_principal", source_ip_key="peer_address", addresses=(world.SERVICE_IP,))
_TYPES = "type.googleapis.com/envoy.extensions.filters"


def _groups() -> list[Mapping[str, Any]]:
    """Groups whose policies sit at the waypoint only. Rows that need a token are left out: Envoy verifies tokens itself."""
    found = []
    for path in TABLES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            if group.get("at") == "waypoint" or "liftSelectorPolicies" in str(group.get("mesh")):
                found.append(group)
    return found


def _asked(row: Mapping[str, Any]) -> bool:
    via_waypoint = row.get("via", "waypoint") == "waypoint" and row["client"] != "plaintext"
    local = {"tcp", "claims", "remote_ip"}.isdisjoint(row) and str(row["expect"]) in ("allowed", "403")
    return via_waypoint and local


def _filter_state(key: str, header: str, factory: str) -> dict[str, Any]:
    return {
        "object_key": key,
        "factory_key": factory,
        "format_string": {"text_format_source": {"inline_string": f"%REQ({header})%"}},
    }


def _listener(index: int, group: Mapping[str, Any], directory: pathlib.Path) -> dict[str, Any]:
    policies = build_policies(group)
    waypoint = world.waypoint(policies.settings.trust_domain)
    target = world.workload(group.get("namespace", "hello"), group.get("labels"), (waypoint,))
    ports = tuple(map(tuple, group.get("ports", [[5000, 5000]])))
    enforced = policies.for_service(world.service(target, ports=ports), waypoint)
    # One virtual listener per service port: the port is known where the filters are made.
    return {
        "name": f"group-{index}",
        "address": {"pipe": {"path": str(directory / f"{index}.sock")}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _manager(policies, enforced, group)}]}],
    }


def _manager(policies: PolicySet, enforced: tuple[Any, ...], group: Mapping[str, Any]) -> dict[str, Any]:
    port = next((row["service_port"] for row in group["rows"] if "service_port" in row and _asked(row)), 5000)
    inputs = Inputs(INPUTS.principal_key, INPUTS.source_ip_key, "", port, INPUTS.addresses)
    set_state = {
        "name": "state",
        "typed_config": {
            "@type": f"{_TYPES}.http.set_filter_state.v3.Config",
            "on_request_headers": [
                _filter_state("peer_principal", "x-peer", "envoy.string"),
                _filter_state("peer_address", "x-address", "envoy.network.ip"),
            ],
        },
    }
    route = {"match": {"prefix": ""}, "direct_response": {"status": 200}}
    return {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        **http_normalization(policies.settings),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            set_state,
            *http_filters(enforced, policies.settings, inputs).named(),
            {"name": "router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}},
        ],
    }


@contextlib.contextmanager
def running_envoy(directory: pathlib.Path, listeners: list[dict[str, Any]]) -> Iterator[None]:
    """An Envoy with these listeners."""
    (directory / "bootstrap.json").write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    command = [envoy_binary(), "-c", str(directory / "bootstrap.json"), "--use-dynamic-base-id", "--concurrency", "1"]
    with subprocess.Popen([*command, "-l", "info"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            seen = []
            for line in process.stderr:
                seen.append(line)
                if "starting main dispatch loop" in line:
                    break
            else:
                pytest.fail("Envoy did not start:\n" + "".join(seen))
            # Nothing may fill the pipe while requests are sent.
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A running Envoy with a unix socket per group, named by the group's index."""
    directory = tmp_path_factory.mktemp("tk")
    with running_envoy(directory, [_listener(index, group, directory) for index, group in enumerate(_groups())]):
        yield directory


def answer_of(path: pathlib.Path, request: str) -> str:
    """What a socket of Envoy answers to a request, sent raw; its head."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer and (received := connection.recv(4096)):
            answer += received
    return answer.decode()


def _status(path: pathlib.Path, row: Mapping[str, Any]) -> int:
    """Send a row as raw HTTP/1.1 and read the status."""
    call = world.http(row.get("request", "GET /hello"), row.get("headers"))
    identity = world.client(row["client"])
    assert identity is not None
    source = row.get("source_ip", world.CLIENT_IP)
    lines = [
        f"{call.method} {call.path} HTTP/1.1",
        f"host: {call.host}",
        f"x-peer: {identity.spiffe}",
        f"x-address: {source}",
    ]
    lines += [f"{name}: {value}" for name, value in call.headers]
    lines += ["content-length: 0", "connection: close", "", ""]
    return int(answer_of(path, "\r\n".join(lines)).split(" ", 2)[1])


def test_envoy_decides_each_row_alike(envoy: pathlib.Path) -> None:
    differing = []
    asked = 0
    for index, group in enumerate(_groups()):
        rows = [row for row in group["rows"] if _asked(row)]
        first = next((row.get("service_port", 5000) for row in rows), 5000)
        for row in rows:
            if row.get("service_port", 5000) != first:
                continue
            asked += 1
            status = _status(envoy / f"{index}.sock", row)
            # Envoy refuses some requests (a fragment, a method in lower case) before any policy is asked.
            expected = (200,) if row["expect"] == "allowed" else (400, 403)
            if status not in expected:
                differing.append((group["name"], dict(row), status))
    assert asked > 100
    assert not differing
