"""The index finds what could match and tests little else. That it finds all of it is for ``test_fast_path`` to show."""

from __future__ import annotations

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
