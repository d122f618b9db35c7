"""The request that a decision is about: facts only, as a proxy or a person would state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .identity import Identity
from .views import ServiceView, WaypointView, WorkloadView


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request. ``path`` is raw, as sent; ``host`` is the authority, port included.

    ``claims`` are those of a token that was verified, None without one. ``remote_ip`` is the address from X-Forwarded-For
    if the waypoint trusts it, "" to take the peer's.
    """

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    claims: Mapping[str, Any] | None = None
    remote_ip: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A connection, and the request in it if it carries HTTP.

    ``client`` is the identity shown in mTLS, None for plaintext. ``port`` is the pod's target port; ``service_port`` and
    ``service_ip`` are what a waypoint sees for traffic to a Service. ``waypoint`` is the one that the client's ztunnel sends
    the connection through, None for the direct path. ``http_declared`` tells that the port is declared HTTP, so that a
    refusal may be explained to the client. ``captured`` False: no ztunnel stands before the workload, so nothing but a
    waypoint on the way enforces anything (A1, A2).
    """

    client: Identity | None
    workload: WorkloadView
    port: int
    source_ip: str = ""
    destination_ip: str = ""
    service: ServiceView | None = None
    service_port: int = 0
    service_ip: str = ""
    waypoint: WaypointView | None = None
    waypoint_ip: str = ""
    http: HttpRequest | None = None
    http_declared: bool = False
    sni: str = ""
    captured: bool = True
