"""The fate of a request: every endpoint's verdict, and what the client sees of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tulle.cli.explain import places, route, tokens
from tulle.cli.explain.authorizers import Answers, Consultation, consultation
from tulle.cli.explain.documents import InputError
from tulle.cli.explain.places import Client, Sort, Target
from tulle.cli.explain.route import Ask, Leg, Way
from tulle.cli.explain.world import World
from tulle.security.decision import Decision, Hop, Outcome, decide
from tulle.security.evaluation import PolicyTrace
from tulle.security.model import Action


@dataclass(frozen=True)
class Seen:
    """What the client sees (D6). `curl` is curl's exit code, None where it cannot be foretold."""

    code: str
    curl: int | None
    text: str


_SEEN: Mapping[str, Seen] = {
    "200": Seen("200", 0, "HTTP 200, or whatever the application answers"),
    "403": Seen("403", 0, "HTTP 403, body `RBAC: access denied`"),
    "503": Seen("503", 0, "HTTP 503"),
    "reset": Seen("reset", 56, "curl: (56) Recv failure: Connection reset by peer"),
    "closed": Seen("closed", 56, "the connection is accepted and closed: curl 56 (or 52, Empty reply from server)"),
    "refused": Seen("refused", 7, "curl: (7) Failed to connect: Connection refused"),
    "unresolved": Seen("unresolved", 6, "curl: (6) Could not resolve host"),
}
UNDECIDED = "undecided"
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OUTCOMES: Mapping[Outcome, str] = {
    Outcome.ALLOWED: "200",
    Outcome.FORBIDDEN: "403",
    Outcome.UNAVAILABLE: "503",
    Outcome.RESET: "reset",
}


@dataclass(frozen=True)
class Fate:
    """What becomes of the request if it goes to one endpoint."""

    leg: Leg
    decision: Decision
    code: str
    asks: Consultation | None = None
    """The external authorizer that is asked first. While its answer is open, `decision` is what comes of it if it allows."""
    by_token: bool = False
    """Whether what refuses the request is its token and no policy."""

    @property
    def allowed(self) -> bool:
        return self.decision.allowed and not self.undecided

    @property
    def undecided(self) -> bool:
        """Whether an external authorizer's answer decides."""
        return self.code == UNDECIDED

    @property
    def hop(self) -> Hop:
        """The hop that decided."""
        return self.decision.hops[-1]


@dataclass(frozen=True)
class Evaluation:
    """A question and its answer, without advice. `token` says what a given token was worth."""

    ask: Ask
    way: Way
    fates: tuple[Fate, ...]
    token: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request passes whatever endpoint it goes to."""
        return self.way.stop is None and all(fate.allowed for fate in self.fates)

    @property
    def denied(self) -> tuple[Fate, ...]:
        return tuple(fate for fate in self.fates if not fate.allowed)

    @property
    def mixed(self) -> bool:
        """Whether it depends on the endpoint."""
        return len({fate.code for fate in self.fates}) > 1

    @property
    def worst(self) -> Fate | None:
        """The fate to explain: a denied one if there is any, before those that are undecided."""
        return min(self.fates, key=lambda fate: (fate.allowed, fate.undecided), default=None)

    @property
    def undecided(self) -> bool:
        """Whether an external authorizer's answer decides."""
        return self.way.stop is None and self.worst is not None and self.worst.undecided

    @property
    def seen(self) -> Seen:
        if self.way.stop is not None:
            return _SEEN[self.way.stop.code]
        worst = self.worst
        if worst is not None and worst.asks is not None and (worst.undecided or worst.asks.answer is False):
            return _by_authorizer(worst, worst.asks)
        if worst is not None and worst.by_token:
            return Seen(worst.code, 0, f"HTTP {worst.code} from the waypoint")
        return self._worded(_SEEN[worst.code if worst else "200"])

    def _worded(self, seen: Seen) -> Seen:
        if seen.code == "200" and self.way.target.scheme != "http":
            return replace(seen, text="a connection to the application")
        if seen.code == "403" and self.ask.method == "HEAD":
            return replace(seen, text="HTTP 403 (HEAD has no body)")
        return seen

    @property
    def nearest(self) -> PolicyTrace | None:
        """The ALLOW policy that came nearest to allowing a denied request, at the hop that denied it."""
        worst = self.worst
        if worst is None or worst.allowed:
            return None
        allows = [one for one in worst.hop.policies if one.action == Action.ALLOW.value and one.mismatch is not None]
        return max(allows, key=lambda one: one.nearness, default=None)


def evaluate(world: World, ask: Ask) -> Evaluation:
    """Answer the question in this world. Raises InputError for no method, and if client or target cannot be found."""
    if not _METHOD.fullmatch(ask.method):
        raise InputError(
            f"method {ask.method!r}: accepted is an HTTP method such as GET, or - for a port that is not HTTP"
        )
    client = places.client(world, ask.client, ask.namespace)
    target = places.target(world, ask.url, client.namespace)
    way = route.way(world, client, target, ask, None)
    if way.stop is not None:
        return Evaluation(ask, way, ())
    verdict = _token(world, way, ask)
    if verdict.claims is not None:
        way = route.way(world, client, target, ask, verdict.claims)
    fates = tuple(_named(_fate(world, client, leg, verdict, ask.authorizers)) for leg in way.legs)
    return Evaluation(ask, way, fates, verdict.note)


def _token(world: World, way: Way, ask: Ask) -> tokens.Verdict:
    if not ask.token:
        return tokens.Verdict()
    request = way.legs[0].request if way.legs else None
    if request is None or request.waypoint is None:
        tokens.read(ask.token)
        return tokens.Verdict(note="no waypoint is on the way, so nobody reads the token")
    return tokens.judge(world, request.waypoint, request.service, ask.token, ask.now)


def _fate(world: World, client: Client, leg: Leg, token: tokens.Verdict, answers: Answers) -> Fate:
    if client.sort is Sort.KUBELET:
        hop = Hop(leg.endpoint.what, True, client.why)
        return Fate(leg, Decision(True, Outcome.ALLOWED, (hop,)), "200")
    decision = decide(world.index.policy_set, leg.request)
    asks = consultation(world, leg, decision, answers)
    if asks is not None and asks.answer is False:
        return _refused_by_authorizer(leg, decision, asks)
    if asks is not None:
        decision = decide(world.index.policy_set, leg.request, (asks.name,))
    if token.refused and leg.request.waypoint is not None and leg.request.http is not None:
        hop = Hop(f"waypoint {leg.request.waypoint.key}", False, token.note)
        return Fate(leg, Decision(False, Outcome.FORBIDDEN, (hop,)), token.refused, asks, by_token=True)
    if asks is not None and asks.answer is None and decision.allowed:
        return Fate(leg, decision, UNDECIDED, asks)
    code = _OUTCOMES[decision.outcome]
    # A waypoint reads before it refuses, and what it closes then is not reset.
    return Fate(leg, decision, "closed" if code == "reset" and leg.waypoint is not None else code, asks)


def _named(fate: Fate) -> Fate:
    """The policy engine knows workloads; not all of them are pods."""
    endpoint, record = fate.leg.endpoint, fate.leg.endpoint.state.record
    called = f"pod {record.namespace}/{record.name}"
    hops = tuple(replace(hop, where=endpoint.what) if hop.where == called else hop for hop in fate.decision.hops)
    return replace(fate, decision=replace(fate.decision, hops=hops))


def _refused_by_authorizer(leg: Leg, decision: Decision, asks: Consultation) -> Fate:
    hops = (*decision.hops[:-1], replace(decision.hops[-1], reason=asks.reason))
    return Fate(leg, replace(decision, hops=hops), "closed" if leg.request.http is None else asks.status, asks)


def _by_authorizer(fate: Fate, asks: Consultation) -> Seen:
    http = fate.leg.request.http is not None
    denied = f"HTTP {asks.status}" + (", or the status that it answers with" if asks.reached else "")
    if not fate.undecided:
        return Seen(fate.code, 0, denied) if http else _SEEN[fate.code]
    no, yes = (f"{denied},", f"{_SEEN['200'].text},") if http else ("closed", "a connection to the application")
    return Seen(UNDECIDED, 0 if http else None, f"{asks.who} decides: {no} if it denies; {yes} if it allows")


__all__ = ["Ask", "Client", "Evaluation", "Fate", "Seen", "Target", "evaluate"]
