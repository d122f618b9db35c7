"""External authorizers on a request's way: whom a CUSTOM policy asks, or why there is nobody to ask (C4).

What an authorizer answers cannot be read out of any configuration. So a request that one is asked about is undecided, with both ends told,
unless the asker assumes an answer. Nobody to ask means no, and that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tulle.cli.explain.documents import InputError
from tulle.cli.explain.route import Leg
from tulle.cli.explain.world import World
from tulle.istiod.waypoint_config.view import AuthorizerView
from tulle.istiod.waypoint_targets import authorizer_for, authorizer_views
from tulle.security.decision import Decision
from tulle.security.evaluation import PolicyTrace
from tulle.security.mesh import MeshSettings
from tulle.security.model import Action, Meta

Answers = tuple[tuple[str, bool], ...]
"""Assumed answers, by the authorizer's name: whether it allows."""
_ANSWERS = {"allow": True, "deny": False}


@dataclass(frozen=True)
class Consultation:
    """Who is asked about a request, by which rule, and what comes of it.

    `answer` is None while it can be anything; `reason` says why it is known. `status` is what the client gets where nobody answers;
    `reached` tells whether somebody is asked at all.
    """

    name: str
    address: str
    policy: Meta
    rule: str
    answer: bool | None = None
    reason: str = ""
    status: str = "403"
    reached: bool = True

    @property
    def who(self) -> str:
        return f"external authorizer {self.name}" + (f" ({self.address})" if self.address else "")


def consultation(world: World, leg: Leg, decision: Decision, assumed: Answers) -> Consultation | None:
    """What the waypoint does about the CUSTOM policy that matches; None if none does."""
    trace = _asking(decision)
    if trace is None:
        return None
    policies = world.index.policy_set
    request = leg.request
    assert request.waypoint is not None
    if request.service is not None:
        found = policies.for_service(request.service, request.waypoint)
    else:
        found = policies.for_pod_ip(request.workload, request.waypoint)
    name, problem = authorizer_for(found, world.settings)
    view = next((one for one in authorizer_views(world.index) if one.name == name), None)
    if view is None:
        why = problem or f"the Service of extension provider {name} or its port is not in the mesh"
        reason = f"{_asked(trace)}, but {why}: nobody to ask means no"
        return Consultation(name, "", trace.meta, trace.rule, False, reason, reached=False)
    return _of(view, trace, dict(assumed).get(name), opaque=request.http is None)


def _of(view: AuthorizerView, trace: PolicyTrace, assumed: bool | None, *, opaque: bool) -> Consultation:
    settings = view.settings
    open_ = Consultation(view.name, f"{view.hostname}:{settings.port}", trace.meta, trace.rule)
    if opaque and not settings.grpc:
        why = f"{view.name} is asked over HTTP, which cannot be done for bytes on an opaque port: denied"
        return replace(open_, answer=False, reason=f"{_asked(trace)}, but {why}", reached=False)
    if not view.endpoints:
        status = str(settings.status_on_error)
        then = "failOpen lets the request pass" if settings.fail_open else f"denied with {status} (statusOnError)"
        why = f"Service {view.hostname} has no ready endpoint at port {settings.port}: {then}"
        reason = f"{_asked(trace)}, but {why}"
        return replace(open_, answer=settings.fail_open, reason=reason, status=status, reached=False)
    if assumed is None:
        return open_
    reason = f"{_asked(trace)}: external authorizer {view.name} {'allows' if assumed else 'denies'} it (assumed)"
    return replace(open_, answer=assumed, reason=reason)


def _asking(decision: Decision) -> PolicyTrace | None:
    """The CUSTOM policy that a hop, left alone, is denied by."""
    hop = decision.hops[-1]
    wanted = (one for one in hop.policies if one.matched and one.action == Action.CUSTOM.value)
    return next((one for one in wanted if one.meta == hop.decided_by), None)


def _asked(trace: PolicyTrace) -> str:
    return f"{trace.meta}, {trace.rule} needs an external authorizer's answer"


def read(given: list[str], settings: MeshSettings) -> Answers:
    """`NAME=allow|deny`, repeated. Raises InputError."""
    known = [one.name for one in settings.extension_providers if one.ext_authz is not None]
    found = []
    for text in given:
        name, _, answer = text.rpartition("=")
        if answer not in _ANSWERS or not name:
            raise InputError(f"--authorizer {text!r}: accepted is NAME=allow or NAME=deny")
        if name not in known:
            has = ", ".join(known) or "none"
            raise InputError(
                f"--authorizer {name}: no such external authorizer in the mesh configuration; it has {has}"
            )
        found.append((name, _ANSWERS[answer]))
    return tuple(found)
