"""The short answer is the traced one: over random policies, and over sets large enough that the index matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security import gate as gates
from tulle.security.decision import HttpRequest, Request, allows, decide
from tulle.security.evaluation import ZTUNNEL_DIALECT, CompiledPolicy, Dialect, Facts
from tulle.security.mesh import MeshSettings
from tulle.security.model import Action, AuthorizationPolicy, PeerAuthentication
from tulle.security.paths import normalize
from tulle.security.policies import PolicySet
from tulle.security.rule_index import RuleIndex

from . import strategies, world
from .test_agreement import settings

ALIASES = MeshSettings("cluster.local", ("old", "other"), head_is_get=True)
many = st.lists(strategies.specs(st.just({})), max_size=14).map(
    lambda specs: [world.policy(spec, f"p{i}") for i, spec in enumerate(specs)]
)


@given(settings, strategies.policies(), strategies.peer_authentications, strategies.requests())
def test_the_short_answer_is_the_traced_one(
    mesh: MeshSettings, found: list[AuthorizationPolicy], modes: list[PeerAuthentication], request: Request
) -> None:
    policies = PolicySet(mesh, found, modes)
    assert allows(policies, request) == decide(policies, request).allowed


def _plainly(policies: list[AuthorizationPolicy], dialect: Dialect, facts: Facts) -> bool:
    matched = {policy.action for policy in policies if CompiledPolicy(policy, dialect).matches(facts)}
    if matched & {Action.DENY, Action.CUSTOM}:
        return False
    return Action.ALLOW in matched or all(policy.action is not Action.ALLOW for policy in policies)


@given(many, strategies.clients, strategies.calls, st.sampled_from(strategies.IPS), st.booleans())
def test_the_index_leaves_out_nothing_that_matches(
    found: list[AuthorizationPolicy], peer: str, call: HttpRequest, source: str, at_waypoint: bool
) -> None:
    dialect = Dialect(True, ALIASES.trust_domains, True) if at_waypoint else ZTUNNEL_DIALECT
    facts = Facts(
        world.client(peer), source, call.remote_ip, world.POD_IP, 5000,
        call.host, call.method, normalize(call.path, "BASE"), call.headers, call.claims, "w.example",
    )  # fmt: skip
    index = RuleIndex([CompiledPolicy(policy, dialect) for policy in found], dialect)
    assert index.passes(facts) == _plainly(found, dialect, facts)


@pytest.mark.parametrize(
    ("values", "hit", "miss"),
    [
        ({"from": [{"source": {"principals": ["cluster.local/ns/a/sa/x"]}}]}, {"peer": "a/x"}, {"peer": "a/y"}),
        ({"from": [{"source": {"principals": ["old/ns/a/sa/x"]}}]}, {"peer": "a/x"}, {"peer": "b/x"}),
        ({"from": [{"source": {"namespaces": ["a*c"]}}]}, {"peer": "abc/x"}, {"peer": "abd/x"}),
        ({"from": [{"source": {"namespaces": ["*b*"]}}]}, {"peer": "abc/x"}, {"peer": "acc/x"}),
        ({"from": [{"source": {"namespaces": ["*bc"]}}]}, {"peer": "abc/x"}, {"peer": "abd/x"}),
        ({"from": [{"source": {"serviceAccounts": ["x"]}}]}, {"peer": "hello/x"}, {"peer": "a/x"}),
        ({"from": [{"source": {"ipBlocks": ["10.1.0.0/16"]}}]}, {"source": "10.1.2.3"}, {"source": "10.2.2.3"}),
        ({"from": [{"source": {"ipBlocks": ["0.0.0.0/0"]}}]}, {"source": "10.1.2.3"}, {"source": "2001:db8::1"}),
        ({"from": [{"source": {"ipBlocks": ["::/0"]}}]}, {"source": "2001:db8::1"}, {"source": "10.1.2.3"}),
        ({"from": [{"source": {"ipBlocks": ["2001:db8::/32"]}}]}, {"source": "2001:db8::1"}, {"source": ""}),
        ({"from": [{"source": {"ipBlocks": ["10.1.0.0/16"]}}]}, {"source": "::ffff:10.1.2.3"}, {"source": "x"}),
        ({"from": [{"source": {"requestPrincipals": ["i/s"]}}]}, {"claims": ("i", "s")}, {"claims": ("i", "t")}),
        ({"from": [{"source": {"requestPrincipals": ["i/*"]}}]}, {"claims": ("i", "s")}, {"claims": ("i/s", "s")}),
        ({"from": [{"source": {"requestPrincipals": ["i/s*"]}}]}, {"claims": ("i", "st")}, {"claims": ("i", "t")}),
        ({"from": [{"source": {"requestPrincipals": ["i/*s"]}}]}, {"claims": ("i", "xs")}, {"claims": ("j", "xs")}),
        ({"from": [{"source": {"requestPrincipals": ["*i/s"]}}]}, {"claims": ("xi", "s")}, {"claims": ("ix", "s")}),
        ({"from": [{"source": {"requestPrincipals": ["*/s"]}}]}, {"claims": ("i", "s")}, {"claims": ("", "s")}),
        ({"from": [{"source": {"requestPrincipals": ["*"]}}]}, {"claims": ("i", "s")}, {"claims": ("", "s")}),
        ({"to": [{"operation": {"paths": ["/a/{*}/b"]}}]}, {"path": "/a/x/b"}, {"path": "/b/x/b"}),
        ({"to": [{"operation": {"paths": ["{**}"]}}]}, {"path": "/anything"}, {"path": "/any\nthing"}),
        ({"to": [{"operation": {"paths": ["*.css"]}}]}, {"path": "/a.css"}, {"path": "/css"}),
        ({"to": [{"operation": {"hosts": ["ABC.example"]}}]}, {"host": "abc.EXAMPLE"}, {"host": "abd.example"}),
        ({"to": [{"operation": {"methods": ["GET"]}}]}, {"method": "HEAD"}, {"method": "PUT"}),
        ({"to": [{"operation": {"ports": ["5000"]}}]}, {}, {"port": 5001}),
        ({"when": [{"key": "request.headers[X]", "values": ["a*"]}]}, {"headers": ("b", "ab")}, {"headers": ("b",)}),
        ({"when": [{"key": "request.headers[x]", "values": ["*"]}]}, {"headers": ("b",)}, {"headers": ()}),
        ({"when": [{"key": "source.trustDomain", "values": ["cluster.local"]}]}, {}, {"peer": "x.example/a/b"}),
    ],
)
def test_each_kind_of_key_finds_its_rule(
    values: dict[str, object], hit: dict[str, object], miss: dict[str, object]
) -> None:
    """The rule stands among others with keys of the same kinds, so that it is found by its key or not at all."""
    policies = [world.policy({"rules": [values]}, "sought")]
    policies += [world.policy({"rules": [{"to": [{"operation": {"paths": [f"/{i}"]}}]}]}, f"p{i}") for i in range(3)]
    dialect = Dialect(True, ALIASES.trust_domains, True)
    index = RuleIndex([CompiledPolicy(policy, dialect) for policy in policies], dialect)

    def facts(
        peer: str = "a/x", claims: tuple[str, str] = ("", ""), headers: tuple[str, ...] = (), **more: object
    ) -> Facts:
        fields = {"source_ip": more.get("source", "192.0.2.1"), "destination_port": more.get("port", 5000)}
        rest = {name: more[name] for name in ("host", "method", "path") if name in more}
        token = {"iss": claims[0], "sub": claims[1]}
        return Facts(world.client(peer), headers=tuple(("x", v) for v in headers), claims=token, **fields, **rest)  # type: ignore[arg-type]

    assert index.passes(facts(**hit))  # type: ignore[arg-type]
    assert not index.passes(facts(**miss))  # type: ignore[arg-type]


def test_gates_are_kept_per_view_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_MOST", 2)
    policies = PolicySet(MeshSettings(), [world.policy({"rules": [{"to": [{"operation": {"ports": ["5000"]}}]}]})])
    asked = [world.request("a/x", world.workload(), port=port) for port in (5000, 80, 5000, 80, 5000)]
    assert [allows(policies, one) for one in asked] == [True, False, True, False, True]
    assert 0 < len(policies.gates) <= 2
    assert gates.gate_for(policies, asked[-1]) is gates.gate_for(policies, asked[-1])
    assert gates.gate_for(policies, asked[-1]) is not gates.gate_for(policies, asked[-2])


def test_answers_behind_a_waypoint_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_MOST", 2)
    policies = PolicySet(MeshSettings(), [world.policy({"rules": [{"to": [{"operation": {"ports": ["5000"]}}]}]})])
    target = world.workload()
    asked = [world.request("a/x", target, port=port, via=world.WAYPOINT) for port in (5000, 80, 9090, 5000, 81, 80)]
    assert [allows(policies, one) for one in asked] == [True, False, False, True, False, False]
    assert len(policies.gates) == 1


def test_ztunnel_is_asked_once_about_a_waypoint() -> None:
    policies = PolicySet(MeshSettings(), [world.policy({"rules": [{"to": [{"operation": {"ports": ["5000"]}}]}]})])
    request = world.request("a/x", world.workload(), via=world.WAYPOINT)
    assert allows(policies, request)

    def never(_: Facts) -> bool:
        raise AssertionError("the answer is known")

    gates.gate_for(policies, request).ztunnel.__dict__["passes"] = never
    assert allows(policies, request)
