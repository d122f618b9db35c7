"""One line that Envoy wrote of a connection, read into a value (see `config.logs` for who writes what)."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

import msgspec

from tulle.envoy.clusters import CONNECT_TIMEOUT_SECONDS
from tulle.ztunnel.config import names
from tulle.ztunnel.policy.terms import Address
from tulle.ztunnel.traffic.sockets import HostPort

_OPENED: Final = frozenset({"TcpUpstreamConnected", "DownstreamTunnelSuccessfullyEstablished"})
#: Envoy's flags of connections that could not be made.
_NOT_MADE: Final = {
    "UF": "connection failed",
    "UH": "no healthy endpoint",
    "NC": "destination not known",
    "NR": "no route",
    "UO": "too many connections",
}
#: What is said of tunnels that fail in silence, by the flag that they get.
_SILENT: Final = {
    "NETWORK_POLICY": f"connection failed: no answer within {CONNECT_TIMEOUT_SECONDS:g} s; a NetworkPolicy may keep port 15008 closed",
    "H2_HANDSHAKE_FAILURE": "connection failed: the other end hung up before there was an HTTP/2 connection",
}
_INTERNAL: Final = "envoy://"
_REFUSALS: Final = tuple(f"{_INTERNAL}{name}/" for name in (names.EXPLAIN_FRONT_LISTENER, names.RESET_FRONT_LISTENER))
_REVOKED: Final = re.compile("certificate[ _]revoked")
#: Flag of connections whose peer's certificate is revoked.
REVOKED: Final = "CERT_REVOKED"
_REJECTED: Final = "connection closed due to policy rejection: "
#: Digits of a port.  A peer may ask for one of many more, of which Python refuses to make a number.
_PORT_DIGITS: Final = 5


class Line(
    msgspec.Struct,
    frozen=True,
    rename={
        "source": "src.addr",
        "source_workload": "src.workload",
        "source_namespace": "src.namespace",
        "source_identity": "src.identity",
        "destination": "dst.addr",
        "asked_for": "dst.hbone_addr",
        "original": "dst.original_addr",
        "service": "dst.service",
        "destination_workload": "dst.workload",
        "destination_namespace": "dst.namespace",
        "destination_identity": "dst.identity",
    },
):
    """The fields as Envoy filled them in, "" where there was nothing.  `failure`: of the transport (TLS).

    `peer_serials` (on the way in) and `peer_certificate` (on the way out) tell whether the peer was revoked since.
    """

    type: str
    kind: str
    pod: str
    time: str = ""
    duration: str = ""
    bytes_sent: int = 0
    bytes_recv: int = 0
    response_flags: str = ""
    response_code: int = 0
    failure: str = ""
    error: str = ""
    peer_serials: str = ""
    peer_certificate: str = ""
    tunnel_local: str = ""
    stream: str = ""
    app_local: str = ""
    app_remote: str = ""
    source: str = ""
    source_workload: str = ""
    source_namespace: str = ""
    source_identity: str = ""
    destination: str = ""
    asked_for: str = ""
    original: str = ""
    service: str = ""
    destination_workload: str = ""
    destination_namespace: str = ""
    destination_identity: str = ""

    @property
    def inbound(self) -> bool:
        return self.kind != "outbound"

    @property
    def opened(self) -> bool:
        """Whether it says that a connection is established; otherwise one has ended."""
        return self.type in _OPENED

    @property
    def key(self) -> tuple[str, str, str]:
        """What an open connection is known by."""
        if self.inbound and self.app_remote.startswith(_INTERNAL):
            return self.pod, self.source, f"{self.asked_for} {self.stream}"
        if self.inbound:
            return self.pod, self.app_local, self.app_remote
        return self.pod, self.source, self.original

    @property
    def tunnelled(self) -> bool:
        """Whether it came or went by HBONE."""
        if self.inbound:
            return self.kind == "hbone"
        return bool(self.asked_for) and not self.destination.startswith(_INTERNAL)

    @property
    def tunnel(self) -> tuple[str, str]:
        """The two ends of the tunnel that it goes through, the proxy's own first; of one that is `tunnelled`."""
        return (self.destination, self.source) if self.inbound else (self.tunnel_local, self.destination)

    @property
    def actual(self) -> str:
        """`address:port` at the far end of the proxy."""
        if self.inbound:
            by_name = self.asked_for and address(self.asked_for) is None
            return self.app_remote if by_name and self.app_remote else self.asked_for or self.destination
        return self.asked_for if self.destination.startswith(_INTERNAL) else self.destination

    @property
    def refused(self) -> bool:
        """Whether it leads to nobody, only to the place where connections are refused."""
        return bool(self.error) or self.destination.startswith(_REFUSALS)

    @property
    def problem(self) -> str:
        """Why the connection failed, "" if it did not; says nothing of one that was open."""
        flags = self.response_flags.split(",") if self.response_flags else ()
        what = self.error or next((text for flag, text in _NOT_MADE.items() if flag in flags), "")
        what = _SILENT.get(self._without_tunnel, what)
        if self.kind == "handshake" or self.failure:
            return ": ".join(part for part in (what, self.failure) if part)
        return what

    @property
    def failure_flag(self) -> str:
        """The value of the metrics' label response_flags (spec D13)."""
        if self.error.startswith(_REJECTED):
            return "DENY"
        if _REVOKED.search(self.failure):
            return REVOKED
        if self.kind == "handshake" or "TLS" in self.failure:
            return "TLS_FAILURE"
        return self._without_tunnel or ("CONNECT" if self.problem else "-")

    @property
    def _without_tunnel(self) -> str:
        """The flag of a tunnel that failed without Envoy saying why: nobody answered, or somebody hung up."""
        if (
            self.inbound
            or self.failure
            or self.error
            or not self.tunnelled
            or "UF" not in self.response_flags.split(",")
        ):
            return ""
        waited = float(self.duration.removesuffix("ms") or 0) / 1000
        return "NETWORK_POLICY" if waited >= CONNECT_TIMEOUT_SECONDS else "H2_HANDSHAKE_FAILURE"


def decided(line: Line) -> Line:
    """The same with the endpoint that was tried last, where Envoy lists all that were tried."""
    if line.inbound or "," not in line.asked_for:
        return line
    return msgspec.structs.replace(line, asked_for=line.asked_for.rpartition(",")[2])


def split(text: str) -> HostPort | None:
    """`address:port` or `[address]:port` as a pair, None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > _PORT_DIGITS:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def address(text: str) -> Address | None:
    """The address of `address:port`, None when there is none."""
    pair = split(text)
    return _parsed(pair[0]) if pair is not None else None


@lru_cache(maxsize=4096)
def _parsed(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
