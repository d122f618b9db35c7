"""What must hold of any mesh: a proposed change works when it is really made, and supposing leaves no trace."""

from __future__ import annotations

import json
import shlex
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tulle.cli.explain.changes import smallest
from tulle.cli.explain.documents import Document, Key
from tulle.cli.explain.evaluate import evaluate
from tulle.cli.explain.patches import Operation, applied, pointer
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World, offline
from tulle.security.admission import validate

from .scenes import ENROLLED, SELECTOR, STRICT, TARGET, TEST, URL, WAYPOINT_PRINCIPAL, policy, scene

_PRINCIPALS = st.sampled_from([TEST, WAYPOINT_PRINCIPAL, f"spiffe://{TEST}", "cluster.local/ns/x/sa/y", "*"])
_SOURCES = st.one_of(
    st.fixed_dictionaries({"principals": st.lists(_PRINCIPALS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"notPrincipals": st.lists(_PRINCIPALS, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"namespaces": st.lists(st.sampled_from(["test", "hello", "x*"]), min_size=1, max_size=2)}),
)
_OPERATIONS = st.one_of(
    st.fixed_dictionaries({"methods": st.lists(st.sampled_from(["GET", "PUT"]), min_size=1, max_size=1)}),
    st.fixed_dictionaries({"ports": st.lists(st.sampled_from(["5000", "8080"]), min_size=1, max_size=1)}),
    st.fixed_dictionaries({"notPaths": st.lists(st.sampled_from(["/hello", "/x*"]), min_size=1, max_size=2)}),
)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draw(st.booleans()):
        found["from"] = [{"source": source} for source in draw(st.lists(_SOURCES, min_size=1, max_size=2))]
    if draw(st.booleans()):
        found["to"] = [{"operation": draw(_OPERATIONS)}]
    return found


@st.composite
def policies(draw: st.DrawFn) -> list[str]:
    found = []
    for number in range(draw(st.integers(0, 3))):
        attachment = draw(st.sampled_from([{"selector": SELECTOR}, {"targetRefs": TARGET}, {}]))
        action = draw(st.sampled_from(["ALLOW", "ALLOW", "DENY"]))
        listed = draw(st.lists(rules(), min_size=1, max_size=2))
        found.append(policy(f"p{number}", {**attachment, "action": action, "rules": listed}))
    return found


@st.composite
def worlds(draw: st.DrawFn) -> World:
    texts = draw(policies())
    texts += [STRICT] if draw(st.booleans()) else []
    texts += [ENROLLED] if draw(st.booleans()) else []
    return scene(*texts, profile=draw(st.sampled_from(["istio", "lesson"])))


asks = st.builds(
    Ask, st.just("pod/curl"), st.sampled_from(["test", "legacy"]), st.sampled_from(["GET", "HEAD"]), st.just(URL)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds(), ask=asks)
def test_a_proposed_change_works_when_it_is_made(world: World, ask: Ask) -> None:
    evaluation = evaluate(world, ask)
    states = dict(world.index.workloads), dict(world.index.services), dict(world.index.policies)
    proposed = None if evaluation.allowed else smallest(world, ask, evaluation)
    assert (world.index.workloads, world.index.services, world.index.policies) == states
    assert evaluate(world, ask).seen == evaluation.seen
    if proposed is None:
        return
    objects = dict(world.objects)
    for key, manifest in proposed.change.edits.items():
        objects.pop(key, None)
        if manifest is not None:
            objects[key] = Document(key, manifest, "changed")
            if key.kind == "AuthorizationPolicy":
                assert validate(manifest).allowed
    rebuilt = offline(objects.values(), "lesson" if world.settings.head_is_get else "istio")
    assert evaluate(rebuilt, ask).allowed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds(), ask=asks)
def test_the_printed_patch_is_the_one_that_was_tried(world: World, ask: Ask) -> None:
    evaluation = evaluate(world, ask)
    proposed = None if evaluation.allowed else smallest(world, ask, evaluation)
    if proposed is None:
        return
    patched: dict[Key, Any] = {}
    for command in proposed.change.commands:
        words = shlex.split(command)
        if words[:3] == ["kubectl", "patch", "authorizationpolicy"]:
            key = Key("AuthorizationPolicy", words[words.index("-n") + 1], words[3])
            operations = [Operation(one["op"], one["path"], one.get("value")) for one in json.loads(words[-1])]
            patched[key] = applied(patched.get(key, world.objects[key].manifest), operations)
    for key, manifest in patched.items():
        edited = proposed.change.edits[key]
        assert edited is not None
        assert manifest["spec"] == edited["spec"]


def test_pointers() -> None:
    assert pointer("spec.rules[0].from[1].source.principals") == "/spec/rules/0/from/1/source/principals"
    labels = {"metadata": {"labels": {"a/b": "c", "d~e": "f"}}}
    assert applied(
        labels, [Operation("remove", "/metadata/labels/a~1b"), Operation("replace", "/metadata/labels/d~0e", "g")]
    ) == {"metadata": {"labels": {"d~e": "g"}}}
