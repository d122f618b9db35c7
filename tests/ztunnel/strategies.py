"""Random policies and peers, from few enough values that they meet."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st

from tulle.xds.proto import authorization_pb2
from tulle.ztunnel.policy.terms import Peer

NAMESPACES = ("a", "ab", "b.c")
ACCOUNTS = ("default", "x.y", "xzy")
PORTS = (80, 8080, 443)
SOURCES = ("10.0.0.1", "10.0.1.1", "10.9.0.1")
POD = ip_address("10.244.1.5")


def identity(namespace: str, account: str, domain: str = "cluster.local") -> str:
    return f"spiffe://{domain}/ns/{namespace}/sa/{account}"


identities = st.builds(identity, st.sampled_from(NAMESPACES), st.sampled_from(ACCOUNTS))
peers = st.builds(
    Peer,
    identity=identities,
    source=st.sampled_from([ip_address(source) for source in SOURCES]),
    destination=st.just(POD),
    port=st.sampled_from(PORTS),
)


def _string(kind: str, text: str) -> Any:
    match = authorization_pb2.StringMatch()
    if kind == "presence":
        match.presence.SetInParent()
    else:
        setattr(match, kind, text)
    return match


def strings(*texts: str) -> st.SearchStrategy[Any]:
    kinds = st.sampled_from(["exact", "prefix", "suffix", "presence"])
    return st.builds(_string, kinds, st.sampled_from(texts))


def _few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, max_size=2)


_addresses = st.builds(
    lambda text, length: authorization_pb2.Address(address=ip_address(text).packed, length=length),
    st.sampled_from(["10.0.0.0", "10.244.1.5", "0.0.0.0", "10.0.0.1"]),
    st.sampled_from([0, 8, 16, 24, 32]),
)
_principals = strings("cluster.local/ns/a/sa/default", "cluster.local/ns/a", "default", "spiffe", "/sa/x.y")
_accounts = st.builds(
    lambda namespace, account: authorization_pb2.ServiceAccountMatch(namespace=namespace, serviceAccount=account),
    st.sampled_from(NAMESPACES),
    st.sampled_from(ACCOUNTS),
)
matches = st.builds(
    authorization_pb2.Match,
    namespaces=_few(strings(*NAMESPACES, "b")),
    not_namespaces=_few(strings(*NAMESPACES)),
    principals=_few(_principals),
    not_principals=_few(_principals),
    service_accounts=_few(_accounts),
    not_service_accounts=_few(_accounts),
    source_ips=_few(_addresses),
    not_source_ips=_few(_addresses),
    destination_ips=_few(_addresses),
    not_destination_ips=_few(_addresses),
    destination_ports=_few(st.sampled_from(PORTS)),
    not_destination_ports=_few(st.sampled_from(PORTS)),
)
clauses = st.builds(lambda found: authorization_pb2.Clause(matches=found), st.lists(matches, max_size=2))
rules = st.builds(lambda found: authorization_pb2.Rule(clauses=found), st.lists(clauses, max_size=2))
authorizations = st.builds(
    authorization_pb2.Authorization,
    name=st.sampled_from(["p", "q", "r"]),
    namespace=st.just("a"),
    scope=st.just(2),
    action=st.sampled_from([0, 1]),
    rules=st.lists(rules, max_size=2),
    dry_run=st.booleans(),
)
