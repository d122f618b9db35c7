"""What a Service port says it carries: `appProtocol` first, else the port's name in the form `<protocol>[-<suffix>]`."""

from __future__ import annotations

from collections.abc import Mapping

from tulle.istiod.index.records import Protocol

_APP_PROTOCOLS: Mapping[str, Protocol] = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP11,
    "kubernetes.io/wss": Protocol.TLS,
}

_NAMES: Mapping[str, Protocol] = {
    "http": Protocol.HTTP11,
    "http2": Protocol.HTTP2,
    "grpc": Protocol.GRPC,
    "grpc-web": Protocol.HTTP11,
    "https": Protocol.TLS,
    "tls": Protocol.TLS,
    "tcp": Protocol.TCP,
    "mongo": Protocol.TCP,
    "mysql": Protocol.TCP,
    "redis": Protocol.TCP,
}


def protocol_of(name: str, app_protocol: str) -> Protocol:
    """The protocol of a port; UNKNOWN when it names none that the mesh knows."""
    if app_protocol:
        given = app_protocol.lower()
        return _APP_PROTOCOLS.get(given) or _NAMES.get(given, Protocol.UNKNOWN)
    lowered = name.lower()
    if lowered == "grpc-web" or lowered.startswith("grpc-web-"):
        return Protocol.HTTP11
    return _NAMES.get(lowered.partition("-")[0], Protocol.UNKNOWN)
