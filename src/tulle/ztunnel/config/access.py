"""Policies as Envoy matchers: which connections a pod takes, and what becomes of the others.

Over HBONE the decision is made on the CONNECT request by the pod's route table, so a change of policy is a change of
routes and drains nothing.  The table looks at three headers that Envoy itself has set from the connection before
routing (whatever the peer sent under those names is overwritten), and at the authority.  In plaintext the decision is the
choice of a filter chain, made when the connection is accepted and before anything is opened towards the app.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from envoy.config.route.v3 import route_components_pb2, route_pb2
from xds.type.matcher.v3 import matcher_pb2

from tulle.envoy import filter_state, matching, routes
from tulle.envoy.matching import Choice, Predicate
from tulle.ztunnel.config import names, tunnel
from tulle.ztunnel.policy.decide import NONE_ALLOWED, Effective, denied_by, not_known
from tulle.ztunnel.policy.terms import (
    ALWAYS,
    NEVER,
    Address,
    AllOf,
    AnyOf,
    Constant,
    DestinationIn,
    IdentityMatches,
    Not,
    PortIn,
    SourceIn,
    Term,
    specialise,
)
from tulle.ztunnel.state.model import AppTunnel

_Leaf: TypeAlias = Callable[[Term], Predicate]

#: Chains of a plaintext listener.
ALLOW_CHAIN: Final = "allow"
DENY_CHAIN: Final = "deny"
#: One port number in its only spelling, so that no second spelling passes a rule about it.
_PORT: Final = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
#: A host name, which an address is not: its last label has a letter.
_HOSTNAME: Final = r"(?:[A-Za-z0-9_-]+\.)*[0-9_-]*[A-Za-z][A-Za-z0-9_-]*\.?"
_IPV4: Final = "[0-9.]+"
_IPV6: Final = ".*:.*"
_REJECTED: Final = "connection closed due to policy rejection: "


@dataclass(frozen=True, order=True)
class Named:
    """A port of one of the pod's services, which peers may ask for by name, and the pod's own port behind it."""

    hostname: str
    port: int
    target: int


@dataclass(frozen=True)
class Access:
    """What decides who may connect to one pod.

    `known`: istiod has sent the pod's workload; until then nothing is let in.  `explain_ports`: target ports that are HTTP
    ports of a service that wants refusals explained.  `named`: what the pod can be asked for by name.  `tunnel`: the app
    takes all tunnels, whatever they ask for.  `keeps_source`: the app sees the addresses of its clients.
    """

    addresses: tuple[Address, ...]
    policies: Effective
    known: bool = True
    explain_ports: tuple[int, ...] = ()
    named: tuple[Named, ...] = ()
    tunnel: AppTunnel | None = None
    keeps_source: bool = False

    @property
    def only_port(self) -> int | None:
        """The port of the pod on which everything tunnelled arrives, if it is one and the same."""
        return self.tunnel.port or None if self.tunnel is not None else None

    def unlike(self, address: Address) -> str | None:
        """Which clients cannot be shown to an app at `address`, as an expression: those of the other version of IP.  None: no client."""
        if not self.keeps_source:
            return None
        mixed = len({one.version for one in self.addresses}) > 1
        return "" if not mixed else _IPV6 if address.version == 4 else _IPV4

    def tunnelled_to(self, address: Address, port: int) -> tuple[Address, int]:
        """What policies take to be the destination of a request for an address that the app's own tunnel takes."""
        own = address if address in self.addresses or not self.addresses else self.addresses[0]
        return own, self.only_port or port


# -- HBONE ------------------------------------------------------------------------------------------------------------


def route_table(name: str, access: Access) -> route_pb2.RouteConfiguration:
    """The route table of a pod's HBONE listener (spec D4)."""
    method = matching.request_header(":method")
    protocol = matching.request_header(":protocol")
    wanted = matching.request_header(":authority")
    cases: list[tuple[Predicate, Choice]] = [
        (
            matching.any_of([matching.negate(matching.equals(method, "CONNECT")), matching.matches(protocol, ".+")]),
            matching.use_route(routes.answer("not a CONNECT request", 400)),
        )
    ]
    if not access.known:
        unknown = _refusals(access, "workload not known", 503)
        return routes.matched_table(name, matching.first_match(cases, unknown))
    if access.only_port in names.OWN_PORTS:
        return routes.matched_table(name, matching.first_match(cases, _status("illegal port", 503)))
    own = "|".join(map(str, names.OWN_PORTS))
    if access.tunnel is not None and access.only_port is None:
        cases.append((matching.matches(wanted, f".*:(?:{own})"), _status("illegal port", 503)))
    for address in access.addresses:
        host = re.escape(names.authority(address, 0).removesuffix("0"))
        cases.append((matching.matches(wanted, f"{host}(?:{own})"), _status("illegal port", 503)))
        cases.append((matching.matches(wanted, host + _PORT), matching.use_matcher(_policies(access, address))))
    if access.tunnel is not None and access.addresses:
        anything = matching.matches(wanted, tunnel.ANY_AUTHORITY)
        cases.append((anything, matching.use_matcher(_policies(access, access.addresses[0]))))
    for target, asked in _by_target(access).items():
        by_name = _policies(access, access.addresses[0], target)
        cases.append((matching.matches(wanted, "|".join(asked)), matching.use_matcher(by_name)))
    cases.append(
        (matching.matches(wanted, f"{_HOSTNAME}:{_PORT}"), _status("no such port of this pod's services", 503))
    )
    return routes.matched_table(name, matching.first_match(cases, _status("authority is not this pod", 400)))


def _by_target(access: Access) -> dict[int, list[str]]:
    """The authorities, as expressions, that stand for each of the pod's ports.  An app's own tunnel takes addresses only."""
    found: dict[int, list[str]] = {}
    for named in access.named if access.tunnel is None and access.addresses else ():
        if named.target not in names.OWN_PORTS:
            found.setdefault(named.target, []).append(re.escape(f"{named.hostname}:{named.port}"))
    return found


def _policies(access: Access, address: Address, named: int | None = None) -> matcher_pb2.Matcher:
    """What policies say of a request for the pod: for the port in its authority, or for `named` if it came by name."""
    port = named if access.only_port is None else access.only_port
    cases, otherwise = _verdicts(access.policies, address, plaintext=False, port=port)
    where = names.authority(address, named) if named is not None else ""
    allowed = tunnel.way_in(access.tunnel, where, access.unlike(address))
    choices = [
        (_over_hbone(term), allowed if not reason else _refusals(access, reason, 401, port)) for term, reason in cases
    ]
    return matching.first_match(choices, allowed if not otherwise else _refusals(access, otherwise, 401, port))


def _refusals(access: Access, reason: str, status: int, port: int | None = None) -> Choice:
    """How a connection is refused: by a status, or inside the tunnel when the peer says that it can take that."""
    text = _REJECTED + reason if status == 401 else reason
    by_status = _status(text, status)
    inside = matching.use_route(routes.forward_connect(text, names.RESET))
    if port in access.explain_ports:
        inside = _explained(text)
    elif port is None and access.explain_ports:
        ports = "|".join(map(str, access.explain_ports))
        explained = _explained(text)
        inside = matching.use_matcher(
            matching.first_match(
                [(matching.matches(matching.request_header(":authority"), f".*:(?:{ports})"), explained)], inside
            )
        )
    capable = matching.equals(matching.request_header(names.REFUSAL_HEADER), names.REFUSAL_IN_TUNNEL)
    return matching.use_matcher(matching.first_match([(capable, inside)], by_status))


def _explained(text: str) -> Choice:
    route: route_components_pb2.Route = routes.terminate_connect(text, names.EXPLAIN)
    # Who is refused is not always who asked: a waypoint passes this answer on to its own client.
    who = f"ztunnel refused %DOWNSTREAM_PEER_URI_SAN%: {filter_state.literal(text)}"
    reason = filter_state.Value(names.REFUSAL_REASON, who)
    return matching.use_route(routes.with_filter_state(route, reason))


def _status(text: str, status: int) -> Choice:
    return matching.use_route(routes.refuse_connect(text, status))


def _over_hbone(term: Term) -> Predicate:
    principal = matching.request_header(names.PRINCIPAL_HEADER)
    source = matching.request_header(names.SOURCE_HEADER)
    wanted = matching.request_header(":authority")
    match term:
        case IdentityMatches(regex):
            return matching.matches(principal, regex)
        case SourceIn(networks):
            return matching.in_networks(source, networks)
        case PortIn(ports):
            return matching.matches(wanted, f".*:(?:{'|'.join(map(str, ports))})")
        case _:
            return _combined(term, _over_hbone)


# -- plaintext --------------------------------------------------------------------------------------------------------


def plaintext_matcher(access: Access) -> matcher_pb2.Matcher:
    """Which chain a plaintext connection takes (spec D5): policies are evaluated with no identity."""
    deny = matching.use_chain(DENY_CHAIN)
    own = {str(port): deny for port in names.OWN_PORTS}
    by_address = {
        str(address): matching.use_matcher(_plaintext(access, address)) for address in access.addresses if access.known
    }
    by_ip = matching.use_matcher(matching.by_text(matching.destination_ip(), by_address, deny)) if by_address else deny
    return matching.by_text(matching.destination_port(), own, by_ip)


def _plaintext(access: Access, address: Address) -> matcher_pb2.Matcher:
    allow, deny = matching.use_chain(ALLOW_CHAIN), matching.use_chain(DENY_CHAIN)
    cases, otherwise = _verdicts(access.policies, address, plaintext=True)
    choices = [(_in_plaintext(term), deny if reason else allow) for term, reason in cases]
    return matching.first_match(choices, deny if otherwise else allow)


def _in_plaintext(term: Term) -> Predicate:
    match term:
        case SourceIn(networks):
            return matching.in_networks(matching.source_ip(), networks)
        case PortIn(ports):
            port = matching.destination_port()
            return matching.any_of([matching.equals(port, str(number)) for number in ports])
        case _:
            return _combined(term, _in_plaintext)


# -- both -------------------------------------------------------------------------------------------------------------


def _verdicts(
    policies: Effective, address: Address, *, plaintext: bool, port: int | None = None
) -> tuple[list[tuple[Term, str]], str]:
    """The policies as cases in order, each with its reason ("" allows), and the reason when none of them holds.

    The same order as `policy.decide.decide`, with the pod's address, its port where that is known beforehand, and the lack of
    an identity already put in.
    """
    known = partial(specialise, destination=address, port=port, plaintext=plaintext)
    for key in policies.unknown:
        return [], not_known(key)
    cases: list[tuple[Term, str]] = []
    for policy in policies.deny:
        term = known(policy.condition)
        if term == ALWAYS:
            return cases, denied_by(policy.key)
        if term != NEVER:
            cases.append((term, denied_by(policy.key)))
    for policy in policies.allow:
        term = known(policy.condition)
        if term == ALWAYS:
            return cases, ""
        if term != NEVER:
            cases.append((term, ""))
    return cases, NONE_ALLOWED if policies.allow else ""


def _combined(term: Term, leaf: _Leaf) -> Predicate:
    match term:
        case AnyOf(terms):
            return matching.any_of(_each(terms, leaf))
        case AllOf(terms):
            return matching.all_of(_each(terms, leaf))
        case Not(inner):
            return matching.negate(leaf(inner))
        case Constant() | DestinationIn() | IdentityMatches() | SourceIn() | PortIn():
            raise ValueError(f"{term} should have been folded away before it is written as a matcher")


def _each(terms: Iterable[Term], leaf: _Leaf) -> Sequence[Predicate]:
    return [leaf(inner) for inner in terms]
