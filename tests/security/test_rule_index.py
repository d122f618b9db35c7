"""The index finds what could match and tests little else. That it finds all of it is for ``test_fast_path`` to show."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security import rule_index
from tulle.security.evaluation import CompiledPolicy, Dialect, Facts
from tulle.security.rule_index import RuleIndex

from . import world

DIALECT = Dialect(True, ("cluster.local",), True)


def _from(field: str, value: str) -> dict[str, Any]:
    return {"from": [{"source": {field: [value]}}]}


def _to(field: str, value: str) -> dict[str, Any]:
    return {"to": [{"operation": {field: [value]}}]}


def _when(key: str, value: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": [value]}]}


KINDS: dict[str, Any] = {
    "principal": lambda i: _from("principals", f"cluster.local/ns/n{i}/sa/x"),
    "principal prefix": lambda i: _from("principals", f"cluster.local/ns/n{i}/*"),
    "principal suffix": lambda i: _from("principals", f"*/ns/n{i}/sa/x"),
    "namespace": lambda i: _from("namespaces", f"n{i}"),
    "namespace head": lambda i: _from("namespaces", f"n{i}*x"),
    "namespace tail": lambda i: _from("namespaces", f"*x*y*n{i}"),
    "service account": lambda i: _from("serviceAccounts", f"n{i}/x"),
    "address": lambda i: _from("ipBlocks", f"10.{i}.0.0/16"),
    "remote address": lambda i: _from("remoteIpBlocks", f"2001:db8:{i:x}::/48"),
    "token": lambda i: _from("requestPrincipals", f"i{i}/s"),
    "token subject": lambda i: _from("requestPrincipals", f"i/s{i}"),
    "token issuer": lambda i: _from("requestPrincipals", f"i{i}/*"),
    "port": lambda i: _to("ports", str(1000 + i)),
    "method": lambda i: _to("methods", f"M{i}"),
    "path": lambda i: _to("paths", f"/{i}/*"),
    "template": lambda i: _to("paths", f"/{i}/{{*}}"),
    "host": lambda i: _to("hosts", f"H{i}.example"),
    "header": lambda i: _when("request.headers[x]", f"v{i}"),
    "claim": lambda i: _when("request.auth.claims[g]", f"v{i}"),
    "sni": lambda i: _when("connection.sni", f"v{i}.example"),
    "destination": lambda i: _when("destination.ip", f"10.{i}.0.5"),
}


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The rules that are tested in full from now on."""
    tested: list[object] = []
    plain = rule_index._holds

    def counted(rule: Any, facts: Facts) -> bool:
        tested.append(rule)
        return plain(rule, facts)

    monkeypatch.setattr(rule_index, "_holds", counted)
    return tested


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_index_tests_few_rules_of_many(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = [world.policy({"rules": [KINDS[kind](i)]}, f"p{i}") for i in range(40)]
    index = RuleIndex([CompiledPolicy(policy, DIALECT) for policy in policies], DIALECT)
    tested = _counted(monkeypatch)
    claims = {"iss": "i", "sub": "none", "g": "none"}
    index.passes(
        Facts(
            world.client("none/none"),
            "192.0.2.1",
            "192.0.2.1",
            "192.0.2.9",
            9,
            "none",
            "none",
            "/none",
            (("x", "none"),),
            claims,
            "none",
        )
    )
    assert len(tested) == 0


def test_a_rule_is_filed_under_its_rarest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty rules share an account and a port; the path tells them apart, wherever it stands and however many it names."""
    shared: dict[str, Any] = {"from": [{"source": {"principals": ["cluster.local/ns/a/sa/x"]}}]}
    rules = [
        {**shared, "to": [{"operation": {"ports": ["80"], "paths": [f"/{i}"], "hosts": ["h", "i"]}}]} for i in range(40)
    ]
    policies = [world.policy({"rules": [rule]}, f"p{i}") for i, rule in enumerate(rules)]
    index = RuleIndex([CompiledPolicy(policy, DIALECT) for policy in policies], DIALECT)
    facts = Facts(world.client("a/x"), "192.0.2.1", destination_port=80, host="h", method="GET", path="/7")
    tested = _counted(monkeypatch)
    assert index.passes(facts)
    assert len(tested) == 1


def test_rules_nearly_as_rare_share_a_look_up() -> None:
    """Each could be under its account or its path. All have a path, so that is all that a request looks up."""
    rules = [{**_from("principals", f"cluster.local/ns/n/sa/s{i}"), **_to("paths", f"/{i}")} for i in range(20)] + [
        _to("paths", f"/{i}") for i in range(20, 30)
    ]
    index = RuleIndex([CompiledPolicy(world.policy({"rules": [rule]}), DIALECT) for rule in rules], DIALECT)
    assert len(index._probes) == 1


LITERALS = st.text("ab", min_size=1, max_size=5)


@given(st.sets(LITERALS, max_size=12), st.text("abc", max_size=7))
def test_every_literal_that_a_text_begins_with_is_found(literals: set[str], text: str) -> None:
    """And each rule once, also where it is filed under several of them."""
    filed = {literal: rule_index._Filed(True, ()) for literal in literals}
    everywhere = rule_index._Filed(False, ())
    found = rule_index._Prefixes({literal: (rule, everywhere) for literal, rule in filed.items()}).find(text)
    wanted = {filed[literal] for literal in literals if text.startswith(literal)}
    assert set(found) == (wanted | {everywhere} if wanted else set())
    assert len(found) == len(set(found))


def _index(*specs: dict[str, Any]) -> RuleIndex:
    return RuleIndex([CompiledPolicy(world.policy(spec, f"p{i}"), DIALECT) for i, spec in enumerate(specs)], DIALECT)


ALLOW_X = {"rules": [_from("principals", "cluster.local/ns/a/sa/x")]}
DENY_Y = {"action": "DENY", "rules": [_from("principals", "cluster.local/ns/a/sa/y")]}
DENY_ALL = {"action": "DENY", "rules": [{}]}
AUDIT = {"action": "AUDIT", "rules": [{}]}


@pytest.mark.parametrize("specs", list(permutations((ALLOW_X, DENY_Y, AUDIT))))
def test_policies_may_come_in_any_order(specs: tuple[dict[str, Any], ...]) -> None:
    index = _index(*specs)
    passing = [peer for peer in ("x", "y", "z") if index.passes(Facts(world.client(f"a/{peer}")))]
    assert passing == ["x"], "y is denied, and nobody allows z"
    assert not _index(*specs, DENY_ALL).passes(Facts(world.client("a/x")))
    assert not _index(DENY_ALL, *specs).passes(Facts(world.client("a/x")))


@pytest.mark.parametrize("wide", ["10.0.0.0/8", "10.1.0.0/16"])
def test_every_network_that_holds_an_address_counts(wide: str) -> None:
    """Whichever of an ALLOW and a DENY names the wider one."""
    allow, deny = (net if net != wide else "10.0.0.0/12" for net in ("10.1.0.0/16", "10.0.0.0/8"))
    for specs in permutations(
        ({"rules": [_from("ipBlocks", allow)]}, {"action": "DENY", "rules": [_from("ipBlocks", deny)]})
    ):
        assert not _index(*specs).passes(Facts(source_ip="10.1.2.3"))


def test_a_glob_is_filed_under_its_last_literal() -> None:
    index = _index({"rules": [_from("namespaces", "*a*b*c")]})
    assert index.passes(Facts(world.client("xaybzc/s")))
    assert not index.passes(Facts(world.client("xaybz/s")))


def test_a_longer_literal_keeps_the_rules_of_a_shorter_one() -> None:
    index = _index({"rules": [_to("paths", "/ab*")]}, {"action": "DENY", "rules": [_to("paths", "/a*")]})
    assert not index.passes(Facts(path="/abc"))
