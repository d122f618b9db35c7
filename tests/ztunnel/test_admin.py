"""What the node proxy tells those who ask it: the dump in the shape of a stock node proxy, and its commands."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tulle.cli.ztunnel_dump import parse
from tulle.envoy.certificates import CertificateState
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import Authority, Roots, utc_now
from tulle.xds.proto import authorization_pb2
from tulle.ztunnel.admin import Admin
from tulle.ztunnel.dump import config_dump
from tulle.ztunnel.loglevels import Levels, LogLevels
from tulle.ztunnel.traffic.table import OpenConnections

from .node import free_port
from .test_configurator import configured

IDENTITY = "spiffe://cluster.local/ns/shop/sa/cart"
MATCH = authorization_pb2.Match(
    principals=[authorization_pb2.StringMatch(exact="cluster.local/ns/a/sa/b")],
    not_namespaces=[authorization_pb2.StringMatch(prefix="kube-"), authorization_pb2.StringMatch(suffix="-test")],
    source_ips=[authorization_pb2.Address(address=b"\x0a\x00\x00\x00", length=8)],
    destination_ports=[80, 443],
    service_accounts=[authorization_pb2.ServiceAccountMatch(namespace="a", serviceAccount="b")],
)


def states() -> list[CertificateState]:
    """One certificate with its intermediate, one that cannot be had, one that is waited for."""
    root = shapes.self_signed_root("cluster.local", utc_now(), timedelta(days=1))
    between = shapes.intermediate(root, "cluster.local", utc_now(), timedelta(hours=9))
    authority = Authority(Roots((root.certificate,), signer=between))
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(shapes.new_key(), hashes.SHA256())
    )
    *chain, last = authority.sign(request.public_bytes(serialization.Encoding.PEM), IDENTITY)
    return [
        CertificateState(IDENTITY, "Available", chain_pem=tuple(chain), roots_pem=(last,)),
        CertificateState(IDENTITY + "2", "Unavailable", error="refused: no such pod"),
        CertificateState(IDENTITY + "3", "Initializing"),
    ]


def dumped() -> dict[str, Any]:
    configurator = configured()
    rule = authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[MATCH]), authorization_pb2.Clause()])
    policy = authorization_pb2.Authorization(name="web", namespace="shop", scope=2, rules=[rule])
    configurator.apply_policies({"shop/web": policy.SerializeToString()}, [])
    found: dict[str, Any] = json.loads(json.dumps(config_dump(configurator, OpenConnections(), states(), {})))
    return found


def test_a_dump_has_the_keys_of_a_stock_one() -> None:
    keys = ("workloads", "services", "policies", "certificates", "staticConfig", "version", "config", "workloadState")
    assert set(keys) <= dumped().keys()


def test_the_rules_of_a_policy_are_the_ones_that_istiod_sent() -> None:
    (policy,) = dumped()["policies"]
    match = {
        "principals": [{"Exact": "cluster.local/ns/a/sa/b"}],
        "notNamespaces": [{"Prefix": "kube-"}, {"Suffix": "-test"}],
        "sourceIps": ["10.0.0.0/8"],
        "destinationPorts": [80, 443],
        "serviceAccounts": [{"namespace": "a", "serviceAccount": "b"}],
    }
    assert policy["rules"] == [[[match], []]]
    assert (policy["action"], policy["scope"]) == ("Allow", "WorkloadSelector")


def test_certificates_are_whole_chains() -> None:
    have, cannot, waits = dumped()["certificates"]
    assert (have["identity"], have["state"], len(have["certChain"]), len(have["rootCerts"])) == (
        IDENTITY,
        "Available",
        2,
        1,
    )
    leaf = x509.load_pem_x509_certificate(base64.b64decode(have["certChain"][0]["pem"]))
    assert have["certChain"][0]["serialNumber"] == str(leaf.serial_number)
    assert cannot["state"] == "Unavailable: refused: no such pod"
    assert (waits["state"], waits["certChain"], waits["rootCerts"]) == ("Initializing", [], [])


def test_tools_read_the_dump() -> None:
    dump = parse(json.dumps(dumped()))
    assert [one.kind for one in dump.certificates] == ["Leaf", "Intermediate", "Root", "NA", "NA"]
    assert [(one.namespace, one.name) for one in dump.local] == [("shop", "p-1")]


def test_workloads_and_local_pods_say_who_they_are() -> None:
    found = dumped()
    (workload,) = found["workloads"]
    assert (workload["workloadType"], workload["trustDomain"], workload["hostname"]) == (
        "deployment",
        "cluster.local",
        "",
    )
    (state,) = found["workloadState"].values()
    wanted = {"name": "p-1", "namespace": "shop", "serviceAccount": "cart", "trustDomain": "cluster.local"}
    assert state["info"] == wanted
    assert state["connections"] == {"inbound": [], "outbound": []}


class Asked:
    """A running admin server, and what it brought about."""

    def __init__(self) -> None:
        self.stopped = 0
        self.port = free_port()
        self.levels = LogLevels(Levels(scopes={"envoy": "error"}), self._apply)
        self.admin = Admin(
            dump=dict,
            metrics=str,
            envoy_get=self._envoy,
            pending=tuple,
            levels=self.levels,
            stop=self._stop,
            admin_port=self.port,
            stats_port=free_port(),
            ready_port=free_port(),
        )

    async def _apply(self, levels: Levels) -> None: ...

    async def _envoy(self, path: str) -> str:
        return path

    def _stop(self) -> None:
        self.stopped += 1

    async def ask(self, method: str, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url) as response:
            return response.status, await response.text()


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 200, "current log level is envoy=error,info\n"),
        ("?level=access=debug,warn", 200, "current log level is access=debug,envoy=error,warn\n"),
        ("?level=info&reset=", 200, "current log level is envoy=error,info\n"),
        ("?reset", 200, "current log level is envoy=error,info\n"),
        ("?level=loud", 400, "Invalid level provided: level 'loud'"),
    ],
)
async def test_logging(query: str, status: int, text: str) -> None:
    asked = Asked()
    await asked.admin.start()
    try:
        answer = await asked.ask("POST", f"/logging{query}")
        assert answer[0] == status
        assert answer[1].startswith(text)
        assert (await asked.ask("GET", "/logging"))[0] == 405
    finally:
        await asked.admin.stop()


async def test_only_post_ends_the_proxy() -> None:
    asked = Asked()
    await asked.admin.start()
    try:
        assert (await asked.ask("GET", "/quitquitquit"))[0] == 405
        assert asked.stopped == 0
        assert await asked.ask("POST", "/quitquitquit") == (200, "shutdown now\n")
        assert asked.stopped == 1
    finally:
        await asked.admin.stop()
