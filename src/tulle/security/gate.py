"""What stands between clients and one destination, compiled once.

A ``Gate`` belongs to one workload, reached directly or through one waypoint, perhaps as one Service. It holds for each hop
the policies that are asked there, ready to be traced (``decision.decide``) or just answered (``allows``). The short answer
takes another way than the traced one, over ``rule_index``; tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from .evaluation import ZTUNNEL_DIALECT, CompiledPolicy, Dialect, Facts, PolicyTrace
from .identity import Identity
from .model import AuthorizationPolicy
from .paths import normalize
from .peer_authentication import EffectiveMode
from .policies import Applied, How, PolicySet
from .reduction import Place, reduce_policy
from .request import HttpRequest, Request
from .rule_index import RuleIndex
from .views import ServiceView, WaypointView, WorkloadView

_MOST = 4096
"""Gates kept per policy set, and answers kept per gate for connections of its waypoint."""


def gate_for(policies: PolicySet, request: Request) -> Gate:
    """The gate that the request meets, compiled at the first request. Views are told apart as objects, not by content."""
    waypoint = request.waypoint if request.client is not None else None
    service = request.service if waypoint is not None else None
    key = (id(request.workload), id(service), id(waypoint))
    gate = policies.gates.get(key)
    if gate is None:
        if len(policies.gates) >= _MOST:
            policies.gates.clear()
        gate = policies.gates[key] = Gate(policies, request.workload, service, waypoint)
    return gate


def allows(policies: PolicySet, request: Request) -> bool:
    """Whether the request passes: ``decide(policies, request).allowed``, without reasons and fast."""
    return gate_for(policies, request).allows(request)


class Checkpoint:
    """The policies that one proxy asks, compiled, each with a note on why it is asked in that form."""

    def __init__(self, asked: Iterable[tuple[AuthorizationPolicy, str]], dialect: Dialect) -> None:
        self.asked = tuple((CompiledPolicy(policy, dialect), note) for policy, note in asked)
        self._dialect = dialect

    def trace(self, facts: Facts) -> list[tuple[AuthorizationPolicy, PolicyTrace]]:
        """Every policy's answer, with reasons."""
        return [(compiled.policy, compiled.trace(facts, note)) for compiled, note in self.asked]

    @cached_property
    def passes(self) -> Callable[[Facts], bool]:
        """The verdict of all of them together (C4)."""
        return RuleIndex([compiled for compiled, _ in self.asked], self._dialect).passes


class Gate:
    """See the module. It keeps the views that it was made for alive, so that their identities stay theirs."""

    def __init__(
        self, policies: PolicySet, workload: WorkloadView, service: ServiceView | None, waypoint: WaypointView | None
    ) -> None:
        self._policies, self._settings = policies, policies.settings
        self._workload, self._service, self.waypoint = workload, service, waypoint
        self._accepted = frozenset(self._settings.trust_domains)
        self._behind: dict[tuple[str, str, int], bool] = {}
        self._modes: dict[int, EffectiveMode] = {}

    # -- the policies of each hop ------------------------------------------------------------------------------------

    @cached_property
    def _enforced(self) -> tuple[AuthorizationPolicy, ...]:
        assert self.waypoint is not None
        if self._service is not None:
            found = self._policies.for_service(self._service, self.waypoint)
        else:
            found = self._policies.for_pod_ip(self._workload, self.waypoint)
        return tuple(policy for policy in found if not policy.dry_run)

    def _dialect(self) -> Dialect:
        return Dialect(True, self._settings.trust_domains, self._settings.head_is_get)

    @cached_property
    def http(self) -> Checkpoint:
        """The waypoint, for an HTTP request."""
        return Checkpoint([(policy, _note(policy)) for policy in self._enforced], self._dialect())

    @cached_property
    def tcp(self) -> Checkpoint:
        """The waypoint, for bytes on a port that is not HTTP."""
        reduced = [reduce_policy(policy, Place.TCP).policy for policy in self._enforced]
        return Checkpoint([(policy, _note(policy)) for policy in reduced if policy is not None], self._dialect())

    @cached_property
    def ztunnel(self) -> Checkpoint:
        """The destination's ztunnel."""
        asked: list[tuple[AuthorizationPolicy, str]] = []
        for item in self.applied:
            if item.how is not How.LIFTED:
                asked.append((self._policies.reduced(item), self._policies.note_at_ztunnel(item)))
        asked += [(policy, "stands for lifted policies") for policy in self.replacing]
        return Checkpoint(asked, ZTUNNEL_DIALECT)

    @cached_property
    def applied(self) -> tuple[Applied, ...]:
        """The policies without targetRefs that apply to the workload."""
        return self._policies.applied(self._workload)

    @cached_property
    def replacing(self) -> tuple[AuthorizationPolicy, ...]:
        """What ztunnel enforces in the place of lifted ones."""
        return self._policies.replacing(self.applied, self._workload)

    def mode(self, port: int) -> EffectiveMode:
        """Whether a target port of the workload requires an identity."""
        found = self._modes.get(port)
        if found is None:
            found = self._modes[port] = self._policies.peer_authentications.effective(self._workload, port)
        return found

    # -- the short answer --------------------------------------------------------------------------------------------

    def allows(self, request: Request) -> bool:
        """Whether every hop lets the request pass."""
        waypoint = self.waypoint
        if waypoint is None:
            return not request.captured or self._allowed_by_ztunnel(
                request.client, request.source_ip, request.destination_ip, request.port
            )
        client = request.client
        if client is not None and client.trust_domain not in self._accepted:
            return False
        checkpoint = self.tcp if request.http is None else self.http
        if not checkpoint.passes(waypoint_facts(request, self._settings.path_normalization)):
            return False
        return not request.captured or self._allowed_behind(waypoint, request)

    def _allowed_behind(self, waypoint: WaypointView, request: Request) -> bool:
        """ztunnel sees the waypoint and not the client, so its answer is the same for every request."""
        key = (request.waypoint_ip, request.destination_ip, request.port)
        answer = self._behind.get(key)
        if answer is None:
            if len(self._behind) >= _MOST:
                self._behind.clear()
            answer = self._behind[key] = self._allowed_by_ztunnel(waypoint.identity, *key)
        return answer

    def _allowed_by_ztunnel(self, client: Identity | None, source: str, destination: str, port: int) -> bool:
        if client is None:
            if self.mode(port).strict:
                return False
        elif client.trust_domain != self._settings.trust_domain:
            return False
        return self.ztunnel.passes(
            Facts(identity=client, source_ip=source, destination_ip=destination, destination_port=port)
        )


def _note(policy: AuthorizationPolicy) -> str:
    return "" if policy.target_refs else "selector policy enforced at the waypoint (liftSelectorPolicies)"


_NO_CALL = HttpRequest("", "", "")


def waypoint_facts(request: Request, normalization: str) -> Facts:
    """What a waypoint knows of a request; the path as the mesh-wide option ``normalization`` leaves it."""
    call = request.http
    path = "" if call is None else normalize(call.path, normalization)
    if call is None:
        call = _NO_CALL
    claims: Mapping[str, object] | None = call.claims
    return Facts(
        request.client,
        request.source_ip,
        call.remote_ip or request.source_ip,
        request.service_ip or request.destination_ip,
        request.service_port or request.port,
        call.host,
        call.method,
        path,
        call.headers,
        claims,
        request.sni,
        call.path,
    )
