"""One request, decided and explained.

``decide`` walks the hops that a request takes (the waypoint, if any, then the destination's ztunnel) and says at each which
policies were asked and what they answered. It evaluates the policies as written, not the forms compiled for Envoy or
ztunnel, so that it can be held against both.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from .evaluation import CompiledPolicy, Dialect, Facts, PolicyTrace
from .gate import Gate, allows, gate_for, waypoint_facts
from .identity import Identity
from .mesh import MeshSettings
from .model import Action, AuthorizationPolicy, Meta
from .policies import How, PolicySet
from .request import HttpRequest, Request
from .views import WaypointView

__all__ = ["Decision", "Hop", "HttpRequest", "Outcome", "Request", "allows", "decide"]


class Outcome(enum.Enum):
    """What the client sees (D6). The value is the HTTP status, or ``reset`` for a connection that ends (curl exit 56)."""

    ALLOWED = "allowed"
    FORBIDDEN = "403"
    UNAVAILABLE = "503"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Hop:
    """The verdict of one proxy: where, whether it lets the request pass, the policies asked, and why in one sentence.

    ``decided_by`` is the object that decided and ``field`` the rule or field in it; None when no object did.
    """

    where: str
    allowed: bool
    reason: str
    policies: tuple[PolicyTrace, ...] = ()
    decided_by: Meta | None = None
    field: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the request passes, what the client sees, and each hop. ``notes`` tells which of Tulle's own settings
    had a part in it."""

    allowed: bool
    outcome: Outcome
    hops: tuple[Hop, ...]
    notes: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The reason of the hop that decided."""
        return self.hops[-1].reason


def decide(policies: PolicySet, request: Request, allowing: Collection[str] = ()) -> Decision:
    """Decide one request. A plaintext client is never sent through a waypoint (D5).

    ``allowing`` names external authorizers that are taken to allow whatever they are asked about.
    """
    settings = policies.settings
    gate = gate_for(policies, request)
    waypoint = gate.waypoint
    hops: list[Hop] = []
    notes: list[str] = []
    if waypoint is not None:
        hop = _at_waypoint(gate, request, settings, notes, allowing)
        hops.append(hop)
        if not hop.allowed:
            # What no policy decided was refused by TLS.
            refused_by_tls = hop.decided_by is None
            outcome = Outcome.RESET if request.http is None or refused_by_tls else Outcome.FORBIDDEN
            return Decision(False, outcome, tuple(hops), tuple(notes))
    hop = _at_ztunnel(gate, request, settings, waypoint, notes)
    hops.append(hop)
    if hop.allowed:
        return Decision(True, Outcome.ALLOWED, tuple(hops), tuple(notes))
    outcome = _refused_at_ztunnel(request, waypoint, settings, notes)
    return Decision(False, outcome, tuple(hops), tuple(notes))


def _refused_at_ztunnel(
    request: Request, waypoint: WaypointView | None, settings: MeshSettings, notes: list[str]
) -> Outcome:
    if waypoint is not None and request.http is not None:
        return Outcome.UNAVAILABLE
    if waypoint is None and settings.explain_refusals and request.http_declared and request.client is not None:
        notes.append("explainRefusals: the refusal reaches the client as HTTP 503 with a reason instead of a TCP reset")
        return Outcome.UNAVAILABLE
    return Outcome.RESET


# -- the waypoint ----------------------------------------------------------------------------------------------------


def _at_waypoint(
    gate: Gate, request: Request, settings: MeshSettings, notes: list[str], allowing: Collection[str]
) -> Hop:
    assert gate.waypoint is not None
    where = f"waypoint {gate.waypoint.key}"
    if request.client is not None and request.client.trust_domain not in settings.trust_domains:
        return Hop(where, False, _foreign(where, request.client, settings.trust_domains))
    facts = waypoint_facts(request, settings.path_normalization)
    found = (gate.tcp if request.http is None else gate.http).trace(facts)
    traced = [(policy, trace) for policy, trace in found if policy.provider not in allowing]
    _note_settings(traced, facts, settings, notes)
    return _verdict(where, traced, "for this workload" if request.service is None else "for this Service")


def _note_settings(
    traced: Sequence[tuple[AuthorizationPolicy, PolicyTrace]], facts: Facts, settings: MeshSettings, notes: list[str]
) -> None:
    lifted = [policy for policy, _ in traced if not policy.target_refs]
    notes += [f"liftSelectorPolicies: {policy.meta} is enforced at the waypoint" for policy in lifted]
    if not (settings.head_is_get and facts.method == "HEAD"):
        return
    exact = Dialect(True, settings.trust_domains, False)
    for policy, trace in traced:
        if CompiledPolicy(policy, exact).matches(facts) != trace.matched:
            notes.append(f"headIsGet: {policy.meta} takes HEAD for GET")


# -- ztunnel ---------------------------------------------------------------------------------------------------------


def _at_ztunnel(
    gate: Gate, request: Request, settings: MeshSettings, waypoint: WaypointView | None, notes: list[str]
) -> Hop:
    workload = request.workload
    if not request.captured:
        where = f"pod {workload.namespace}/{workload.name}"
        return Hop(where, True, "it is not captured, so no ztunnel enforces anything before it")
    where = f"ztunnel of {workload.namespace}/{workload.name}"
    client = request.client if waypoint is None else waypoint.identity
    if client is not None and client.trust_domain != settings.trust_domain:
        return Hop(where, False, _foreign(where, client, (settings.trust_domain,)))
    mode = gate.mode(request.port)
    if client is None and mode.strict:
        return Hop(
            where, False, f"the client has no identity (plaintext) and {mode.reason}", (), mode.source, mode.path
        )
    facts = Facts(
        identity=client,
        source_ip=request.source_ip if waypoint is None else request.waypoint_ip,
        destination_ip=request.destination_ip,
        destination_port=request.port,
    )
    traced = gate.ztunnel.trace(facts)
    if gate.replacing and not notes:
        lifted = ", ".join(str(item.policy.meta) for item in gate.applied if item.how is How.LIFTED)
        notes.append(f"liftSelectorPolicies: ztunnel accepts the waypoint in the place of {lifted}")
    return _verdict(where, traced, "for this workload")


# -- both ------------------------------------------------------------------------------------------------------------


def _foreign(where: str, client: Identity, accepted: Iterable[str]) -> str:
    return f"{where} refuses TLS from {client}: its trust domain is not {' or '.join(accepted)}"


def _verdict(where: str, traced: Sequence[tuple[AuthorizationPolicy, PolicyTrace]], scope: str) -> Hop:
    """CUSTOM and DENY first, then ALLOW; without any ALLOW the request passes (C4).

    A CUSTOM policy asks an external authorizer, and without one every request that it matches is denied.
    """
    traces = tuple(trace for _, trace in traced)
    for action in (Action.CUSTOM, Action.DENY):
        for policy, trace in traced:
            if policy.action is action and trace.matched:
                reason = f"denied by {trace.meta}, {trace.rule}{_aside(trace)}"
                if action is Action.CUSTOM:
                    reason += f": no external authorizer {policy.provider!r} can be asked"
                return Hop(where, False, reason, traces, trace.meta, trace.rule)
    allows = [trace for policy, trace in traced if policy.action is Action.ALLOW]
    if not allows:
        return Hop(where, True, f"no ALLOW policy applies {scope} and no DENY matches", traces)
    for trace in allows:
        if trace.matched:
            return Hop(where, True, f"allowed by {trace.meta}, {trace.rule}", traces, trace.meta, trace.rule)
    nearest = max(allows, key=lambda trace: (trace.mismatch is not None, trace.nearness))
    why = f"{nearest.mismatch}" if nearest.mismatch is not None else "it has no rule that can match"
    reason = f"ALLOW policies apply, but none allows it; {nearest.meta}: {why}{_aside(nearest)}"
    field = nearest.mismatch.path if nearest.mismatch is not None else "spec.rules"
    return Hop(where, False, reason, traces, nearest.meta, field)


def _aside(trace: PolicyTrace) -> str:
    return f" ({trace.note})" if trace.note else ""
