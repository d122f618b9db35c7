"""The answer as data: what `-o json` prints and what the table is drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from tulle.cli.explain import surroundings, traps
from tulle.cli.explain.changes import Verified, enforcing, smallest
from tulle.cli.explain.evaluate import UNDECIDED, Evaluation, Fate, Seen, evaluate
from tulle.cli.explain.findings import Check, Finding
from tulle.cli.explain.places import Sort
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World
from tulle.security.decision import Hop
from tulle.security.evaluation import PolicyTrace

CHECKS: tuple[Check, ...] = (
    surroundings.capture,
    traps.binding,
    traps.layer7_at_ztunnel,
    traps.passed_by,
    traps.identities,
    traps.methods,
    traps.ports,
    surroundings.authorizers,
    surroundings.plaintext,
    surroundings.endpoints,
    surroundings.certificates,
)


@dataclass(frozen=True)
class Row:
    """One hop. `sees` is the identity that the far end sees, `how` the transport, `verdict` allow, deny or "" where nobody decides."""

    source: str
    destination: str
    how: str
    sees: str
    verdict: str = ""
    policy: str = ""
    clause: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Nearest:
    """The ALLOW policy that came nearest, and what it would have taken."""

    policy: str
    clause: str
    found: tuple[str, ...]
    values: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Remark:
    """A finding without its fix."""

    id: str
    trap: bool
    text: str


@dataclass(frozen=True)
class Advice:
    """The smallest change: what it is for, what it does, the commands, and what the client saw when it was tried."""

    purpose: str
    title: str
    commands: tuple[str, ...]
    verified: str


@dataclass(frozen=True)
class Asked:
    """The external authorizer that is asked, by which policy and rule; `answer` is "allow", "deny" or "" while it is open."""

    provider: str
    address: str
    policy: str
    clause: str
    answer: str


@dataclass(frozen=True)
class Report:
    """Everything there is to say about one request. `verdict`: allowed, refused, or undecided until an external authorizer answers."""

    client: str
    method: str
    url: str
    allowed: bool
    verdict: str
    sees: Seen
    summary: str
    captured: str
    hops: tuple[Row, ...]
    endpoints: dict[str, str]
    nearest: Nearest | None
    asks: Asked | None
    findings: tuple[Remark, ...]
    settings: tuple[str, ...]
    assumptions: tuple[str, ...]
    change: Advice | None
    last: str

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON and YAML."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def explain(world: World, ask: Ask) -> Report:
    """Answer a question in full. Raises InputError if client or target cannot be found."""
    evaluation = evaluate(world, ask)
    findings = tuple(_unique(finding for check in CHECKS for finding in check(world, evaluation)))
    verified = _advice(world, ask, evaluation, findings)
    return Report(
        client=evaluation.way.client.what,
        method=ask.method,
        url=ask.url,
        allowed=evaluation.allowed,
        verdict=verdict(evaluation),
        sees=evaluation.seen,
        summary=_summary(evaluation),
        captured=f"{evaluation.way.client.sort.value}: {evaluation.way.client.why}",
        hops=tuple(_rows(evaluation)),
        endpoints={fate.leg.endpoint.name: fate.code for fate in evaluation.fates},
        nearest=_nearest(evaluation.nearest),
        asks=_asked(evaluation),
        findings=tuple(Remark(one.id, one.trap, one.text) for one in findings),
        settings=tuple(dict.fromkeys(_settings(evaluation))),
        assumptions=(*world.assumptions, *((evaluation.token,) if evaluation.token else ())),
        change=_told(verified),
        last=_last(evaluation, verified, findings),
    )


def verdict(evaluation: Evaluation) -> str:
    return "allowed" if evaluation.allowed else UNDECIDED if evaluation.undecided else "refused"


def _asked(evaluation: Evaluation) -> Asked | None:
    asks = evaluation.worst.asks if evaluation.worst is not None else None
    if asks is None:
        return None
    answer = {True: "allow", False: "deny", None: ""}[asks.answer]
    return Asked(asks.name, asks.address, str(asks.policy), asks.rule, answer)


def _unique(findings: Iterator[Finding]) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for finding in findings:
        if (finding.id, finding.text) not in seen:
            seen.add((finding.id, finding.text))
            yield finding


def _settings(evaluation: Evaluation) -> Iterator[str]:
    for fate in evaluation.fates:
        yield from fate.decision.notes
    if any(fate.leg.binding.alias for fate in evaluation.fates):
        yield "waypointLabelAlias: the namespace's label istio.io/waypoint=enabled counts as istio.io/use-waypoint=waypoint"


def _advice(world: World, ask: Ask, evaluation: Evaluation, findings: tuple[Finding, ...]) -> Verified | None:
    if evaluation.allowed:
        options = (enforcing(world, ask, finding.fix) for finding in findings if finding.fix is not None)
        return next((one for one in options if one is not None), None)
    if evaluation.way.stop is not None or evaluation.undecided:
        return None
    asks = evaluation.worst.asks if evaluation.worst is not None else None
    if asks is None or asks.answer is not None:
        return smallest(world, ask, evaluation)
    found = smallest(world, replace(ask, authorizers=(*ask.authorizers, (asks.name, True))), evaluation)
    return found and replace(found, purpose=f"allow it if {asks.name} does")


def _told(verified: Verified | None) -> Advice | None:
    if verified is None:
        return None
    change = verified.change
    return Advice(verified.purpose, change.title, change.commands, f"{verified.seen.code}: {verified.seen.text}")


# --- sentences


def _summary(evaluation: Evaluation) -> str:
    seen = evaluation.seen
    if evaluation.way.stop is not None:
        return f"{seen.text}. {_sentence(evaluation.way.stop.reason)}"
    worst = evaluation.worst
    if worst is None:
        return f"{seen.text}. {evaluation.way.target.host} is outside the mesh, and no policy of this mesh is asked."
    some = (
        f"{len(evaluation.denied)} of {len(evaluation.fates)} pods: " if evaluation.mixed and evaluation.denied else ""
    )
    if worst.undecided and worst.asks is not None:
        where = worst.decision.hops[0].where
        return f"{some}{_sentence(seen.text)} {worst.asks.policy}, {worst.asks.rule} has it asked at {where}."
    return f"{some}{seen.text}. {_sentence(f'{worst.hop.where}: {worst.hop.reason}')}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _last(evaluation: Evaluation, verified: Verified | None, findings: tuple[Finding, ...]) -> str:
    asks = evaluation.worst.asks if evaluation.worst is not None else None
    if asks is not None and evaluation.undecided:
        return f"What {asks.name} answers decides; --authorizer {asks.name}=allow or {asks.name}=deny shows either end."
    if asks is not None and asks.answer is False and verified is None:
        return f"Look at spec.provider of {asks.policy}, extensionProviders of the mesh configuration, and the authorizer itself."
    if verified is not None:
        return f"Smallest change to {verified.purpose}: {verified.change.title}."
    if evaluation.way.stop is not None:
        look = evaluation.way.stop.look
        return f"No policy is at fault. Look at: {look}" if look else "No policy is at fault; correct the address."
    if evaluation.allowed:
        marked = any(one.trap for one in findings)
        return "No policy is in the way; mind what is marked ! above." if marked else "Nothing needs to change."
    if any(one.id in ("pod-ip-skips-waypoint", "headless-skips-waypoint") for one in findings):
        return "Address the Service instead of the pod: the way around its waypoint is closed on purpose."
    wanted = "; the nearest miss above says what is wanted" if evaluation.nearest is not None else ""
    return f"No single policy, label or waypoint that was tried allows it{wanted}."


def _nearest(trace: PolicyTrace | None) -> Nearest | None:
    if trace is None or trace.mismatch is None:
        return None
    miss = trace.mismatch
    field = miss.path.rpartition(".")[2]
    found = ", ".join(miss.found) or f"the {miss.attribute}, which the request does not have"
    verb = "did not contain" if miss.negated else "contained"
    more = trace.failing - 1
    further = "further " if more > 0 else ""
    besides = f"; {more} more of its fields {'do' if more > 1 else 'does'} not match either" if more > 0 else ""
    return Nearest(
        str(trace.meta),
        miss.path,
        miss.found,
        miss.values,
        f"{trace.meta} would match {further}if {field} {verb} {found}{besides}",
    )


# --- hops


def _rows(evaluation: Evaluation) -> Iterator[Row]:
    way = evaluation.way
    worst = evaluation.worst
    client = way.client
    if way.stop is not None or worst is None:
        yield Row(client.what, way.target.what, "", "", "", reason=way.stop.reason if way.stop else "outside the mesh")
        return
    yield from _way_of(evaluation, worst)
    if evaluation.mixed:
        other = next(fate for fate in evaluation.fates if fate.code != worst.code)
        yield from (replace(row, source=f"(or) {row.source}") for row in _way_of(evaluation, other))


def _way_of(evaluation: Evaluation, fate: Fate) -> Iterator[Row]:
    client, leg = evaluation.way.client, fate.leg
    source, identity = client.what, client.identity.principal if client.identity else "nobody (plaintext)"
    if client.sort is Sort.MESH:
        yield Row(client.what, "its node's ztunnel", "captured", "the pod", reason=client.why)
    hops = list(fate.decision.hops)
    waypoint = leg.request.waypoint
    if waypoint is not None and hops:
        row = _decided(source, f"waypoint {waypoint.key}", "HBONE", identity, hops.pop(0))
        if fate.undecided and fate.asks is not None:
            row = replace(
                row, verdict="asks", policy=str(fate.asks.policy), clause=fate.asks.rule, reason=fate.asks.who
            )
        yield row
        source, identity = f"waypoint {waypoint.key}", waypoint.identity.principal
    for hop in hops:
        plain = not leg.hbone
        how = "from the node" if client.sort is Sort.KUBELET else "plaintext" if plain else "HBONE"
        yield _decided(source, hop.where, how, "nobody (plaintext)" if plain else identity, hop)
    if fate.decision.allowed:
        inside = "inside the pod" if leg.endpoint.is_pod else "outside the mesh"
        yield Row(leg.endpoint.what, f"its port {leg.endpoint.port}", inside, "")


def _decided(source: str, destination: str, how: str, sees: str, hop: Hop) -> Row:
    policy = str(hop.decided_by) if hop.decided_by else ""
    return Row(source, destination, how, sees, "allow" if hop.allowed else "deny", policy, hop.field, hop.reason)
