"""The frozen input of the waypoint configuration: everything a waypoint must know, and nothing of where it was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tulle.security.model import JwtRule
from tulle.security.providers import ExtAuthz

AppProtocol = Literal["HTTP", "AUTO", "TCP"]
"""How a waypoint reads a port: HTTP (HTTP/1.1, HTTP/2, gRPC alike, in the client's own version), opaque TCP, or AUTO, for a port
that says nothing: the first bytes of each connection tell which of the two it is."""
Rules = Mapping[str, Any]
"""An `envoy.config.rbac.v3.RBAC` object in protobuf's JSON form."""


@dataclass(frozen=True)
class EndpointView:
    """One place to send requests to: a pod (or external endpoint) and the port that its Service port means there.

    `identity` is the SPIFFE URI that the endpoint must present over HBONE; it is ignored when `hbone` is false. With `by_name` the
    address is a host name, which the waypoint looks up; such an endpoint is never an HBONE one.
    """

    address: str
    port: int
    identity: str
    hbone: bool
    uid: str = ""
    by_name: bool = False


@dataclass(frozen=True)
class ActionRules:
    """The policies of one sort of port by what they do (spec C4). None means that no policy of that action is in scope.

    `custom` are the requests that an authorizer is asked about, `audit` those that are only logged; `dry_deny` and `dry_allow` are
    dry runs, which decide nothing and are logged.
    """

    custom: Rules | None = None
    audit: Rules | None = None
    deny: Rules | None = None
    allow: Rules | None = None
    dry_deny: Rules | None = None
    dry_allow: Rules | None = None


@dataclass(frozen=True)
class TokenView:
    """One issuer whose tokens a target accepts: the rule, the object it stands in, and the issuer's keys.

    `keys` is a JSON Web Key Set; "" means that there are none (yet), so that no token of this issuer is accepted.
    """

    name: str
    rule: JwtRule
    keys: str = ""


@dataclass(frozen=True)
class PolicyRules:
    """What is decided before a request goes on: policies by sort of port, tokens, and who is asked about CUSTOM policies.

    `authorizer` names one of the waypoint's authorizers; "" means that nobody can be asked, for the reason `no_authorizer`, and
    that what CUSTOM policies match is denied.
    """

    http: ActionRules = field(default_factory=ActionRules)
    tcp: ActionRules = field(default_factory=ActionRules)
    tokens: tuple[TokenView, ...] = ()
    authorizer: str = ""
    no_authorizer: str = ""


ANY_PORT = 0
"""The number of a port that stands for all of them: what is addressed to a pod may go to any of its ports, declared or not."""


@dataclass(frozen=True)
class PortView:
    """A port of a target as clients dial it, and the endpoints behind it (only those that may be used now).

    `ANY_PORT` is for workloads, is read as AUTO and leads to whichever port of its one endpoint was dialled.
    `explain`: a refusal by an endpoint's node proxy is passed to the client as an HTTP answer that gives the reason.
    `one_address`: of the addresses that an endpoint's name has, each new connection goes to the first (DNS_ROUND_ROBIN).
    """

    port: int
    protocol: AppProtocol
    endpoints: tuple[EndpointView, ...]
    explain: bool = False
    one_address: bool = False

    @property
    def by_name(self) -> bool:
        """Whether the endpoints are part of the cluster, because names among them are to be looked up."""
        return any(endpoint.by_name for endpoint in self.endpoints)

    @property
    def outside(self) -> bool:
        """Whether connections go in plaintext to the very address that was dialled, for which no endpoint needs to be known."""
        return self.port == ANY_PORT and not any(endpoint.hbone for endpoint in self.endpoints)


@dataclass(frozen=True)
class TargetView:
    """What clients address through the waypoint: a Service by its VIPs, or a workload by its own addresses.

    `kind` is "Service", "ServiceEntry" or "Pod"; with the namespace and name it is the object that resources and logs name.
    """

    kind: str
    namespace: str
    name: str
    hostname: str
    addresses: tuple[str, ...]
    ports: tuple[PortView, ...]
    rules: PolicyRules = field(default_factory=PolicyRules)


@dataclass(frozen=True)
class AuthorizerView:
    """An external authorizer of the mesh configuration, found in the mesh: its settings, and the endpoints of its Service's port."""

    name: str
    settings: ExtAuthz
    hostname: str
    endpoints: tuple[EndpointView, ...]

    @property
    def by_name(self) -> bool:
        """As of a port."""
        return any(endpoint.by_name for endpoint in self.endpoints)


@dataclass(frozen=True)
class WaypointConfigView:
    """All that one waypoint serves. `identity` is the waypoint's own SPIFFE URI, presented to endpoints."""

    namespace: str
    name: str
    identity: str
    trust_domain: str
    targets: tuple[TargetView, ...]
    path_normalization: str = "BASE"
    authorizers: tuple[AuthorizerView, ...] = ()

    def authorizer(self, name: str) -> AuthorizerView | None:
        """The authorizer of that name."""
        return next((one for one in self.authorizers if one.name == name), None)
