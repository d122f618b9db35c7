"""What a node proxy's `/config_dump` says, read the way tools read it (spec D14).

Stock node proxies changed the shape over time: workloads and services are lists or maps, a certificate's dates may be missing and its PEM
in base64, an endpoint may or may not carry its health. All of it is read into one form here, and every entry keeps its raw document for
`-o json`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from tulle.cli.console import CommandError

Raw = Mapping[str, Any]


class DumpError(CommandError):
    """A document that is no configuration dump of a node proxy."""


@dataclass(frozen=True)
class Workload:
    namespace: str
    name: str
    addresses: tuple[str, ...]
    node: str
    waypoint: str
    """Destination of its waypoint: `namespace/hostname` or `network/address`; empty without one."""
    protocol: str
    healthy: bool
    uid: str
    raw: Raw


@dataclass(frozen=True)
class Service:
    namespace: str
    name: str
    hostname: str
    vips: tuple[str, ...]
    """`network/address`"""
    waypoint: str
    healthy: int
    endpoints: int
    raw: Raw


@dataclass(frozen=True)
class Policy:
    namespace: str
    name: str
    action: str
    scope: str
    raw: Raw


@dataclass(frozen=True)
class Certificate:
    """One certificate of an identity's chain; `serial` is None while there is none."""

    identity: str
    kind: str
    state: str
    serial: int | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None

    def valid(self, now: datetime) -> bool:
        return self.not_before is not None and self.not_after is not None and self.not_before <= now < self.not_after


@dataclass(frozen=True)
class Connection:
    """`direction` is Inbound or Outbound; the ends are seen from the workload."""

    direction: str
    local: str
    remote: str
    target: str
    protocol: str


@dataclass(frozen=True)
class LocalWorkload:
    """A pod of the proxy's node and its open connections."""

    namespace: str
    name: str
    connections: tuple[Connection, ...]
    raw: Raw


@dataclass(frozen=True)
class Dump:
    """A whole dump, each part in the order in which tables show it."""

    workloads: tuple[Workload, ...]
    services: tuple[Service, ...]
    policies: tuple[Policy, ...]
    certificates: tuple[Certificate, ...]
    local: tuple[LocalWorkload, ...]
    raw: Raw


def parse(data: bytes | str) -> Dump:
    """Read a dump. Raises DumpError."""
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise DumpError(f"no JSON in the configuration dump: {error}") from error
    if not isinstance(raw, dict) or not {"workloads", "services", "workloadState"} & raw.keys():
        raise DumpError("this is no configuration dump of a ztunnel: it has neither workloads nor services")
    workloads = tuple(sorted(map(_workload, _values(raw, "workloads")), key=lambda w: (w.namespace, w.name, w.node)))
    health = {workload.uid: workload.healthy for workload in workloads}
    services = {(s.namespace, s.hostname): s for s in (_service(one, health) for one in _values(raw, "services"))}
    return Dump(
        workloads,
        tuple(sorted(services.values(), key=lambda s: (s.namespace, s.name, s.hostname))),
        tuple(sorted(map(_policy, _values(raw, "policies")), key=lambda p: (p.namespace, p.name))),
        tuple(one for document in _values(raw, "certificates") for one in _certificates(document)),
        tuple(sorted(map(_local, _values(raw, "workloadState")), key=lambda w: (w.namespace, w.name))),
        raw,
    )


def _values(raw: Raw, key: str) -> Iterable[Raw]:
    found = raw.get(key) or ()
    return list(found.values()) if isinstance(found, dict) else list(found)


def _text(raw: Raw, key: str) -> str:
    return str(raw.get(key) or "")


def _waypoint(raw: Raw) -> str:
    return _text(raw.get("waypoint") or {}, "destination")


def _healthy(raw: Raw, otherwise: bool = True) -> bool:
    status = _text(raw, "status")
    return status.lower() == "healthy" if status else otherwise


def _workload(raw: Raw) -> Workload:
    return Workload(
        _text(raw, "namespace"),
        _text(raw, "name"),
        tuple(map(str, raw.get("workloadIps") or ())),
        _text(raw, "node"),
        _waypoint(raw),
        _text(raw, "protocol"),
        _healthy(raw),
        _text(raw, "uid"),
        raw,
    )


def _service(raw: Raw, health: Mapping[str, bool]) -> Service:
    endpoints = list(_values(raw, "endpoints"))
    healthy = sum(_healthy(one, health.get(_text(one, "workloadUid"), True)) for one in endpoints)
    return Service(
        _text(raw, "namespace"),
        _text(raw, "name"),
        _text(raw, "hostname"),
        tuple(map(str, raw.get("vips") or ())),
        _waypoint(raw),
        healthy,
        len(endpoints),
        raw,
    )


def _policy(raw: Raw) -> Policy:
    return Policy(_text(raw, "namespace"), _text(raw, "name"), _text(raw, "action"), _text(raw, "scope"), raw)


def _certificates(raw: Raw) -> Iterable[Certificate]:
    identity, state = _text(raw, "identity"), _text(raw, "state").partition(":")[0]
    chain = [*(raw.get("certChain") or ()), *(raw.get("rootCerts") or ())]
    if not chain:
        yield Certificate(identity, "NA", state)
    for place, document in enumerate(chain):
        yield _certificate(identity, state, place, document)


def _certificate(identity: str, state: str, place: int, document: Raw) -> Certificate:
    """A certificate says itself whether it is a root; what the dump leaves out is read from it."""
    pem = _text(document, "pem").encode()
    try:
        plain = pem if not pem or pem.startswith(b"-") else base64.b64decode(pem, validate=True)
        certificate = x509.load_pem_x509_certificate(plain) if plain else None
    except ValueError as error:
        raise DumpError(f"certificates: {identity}: entry {place} is no certificate: {error}") from error
    kind = "Intermediate" if place else "Leaf"
    serial, begin, end = document.get("serialNumber"), _time(document, "validFrom"), _time(document, "expirationTime")
    if certificate is not None:
        kind = "Root" if place and certificate.issuer == certificate.subject else kind
        serial = certificate.serial_number if serial is None else serial
        begin = begin or certificate.not_valid_before_utc
        end = end or certificate.not_valid_after_utc
    return Certificate(identity, kind, state, None if serial is None else int(serial), begin, end)


def _time(document: Raw, key: str) -> datetime | None:
    text = _text(document, key)
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise DumpError(f"certificates: {key}: found {text!r}; accepted is a time as in RFC 3339") from error


def _local(raw: Raw) -> LocalWorkload:
    info, connections = raw.get("info") or {}, raw.get("connections") or {}
    found = [
        Connection("Inbound", _text(c, "actualDst"), _text(c, "src"), _text(c, "originalDst"), _text(c, "protocol"))
        for c in connections.get("inbound") or ()
    ] + [
        Connection("Outbound", _text(c, "src"), _text(c, "actualDst"), _text(c, "originalDst"), _text(c, "protocol"))
        for c in connections.get("outbound") or ()
    ]
    return LocalWorkload(_text(info, "namespace"), _text(info, "name"), tuple(found), raw)
