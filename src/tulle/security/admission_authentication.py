"""Admission of PeerAuthentication and RequestAuthentication (B1; C4 for the place of tokens in the chain)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .durations import read_duration
from .fields import Checker
from .match import read_port
from .model import MtlsMode

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SHORTEST_TIMEOUT = 0.001  # seconds
MODES = tuple(mode.value for mode in MtlsMode)
_JWT_FIELDS = (
    "issuer",
    "audiences",
    "jwksUri",
    "jwks_uri",
    "jwks",
    "fromHeaders",
    "fromParams",
    "fromCookies",
    "outputPayloadToHeader",
    "forwardOriginalToken",
    "outputClaimToHeaders",
    "timeout",
    "spaceDelimitedClaims",
)


def check_peer_authentication(c: Checker, manifest: Mapping[str, Any], root_namespace: str) -> None:
    """B1: modes, and ports that need a selector."""
    spec = c.mapping(manifest.get("spec"), "spec", ("selector", "mtls", "portLevelMtls"))
    c.attachment(spec)
    _mode(c, spec.get("mtls"), "spec.mtls")
    labels = c.mapping(spec.get("selector"), "spec.selector").get("matchLabels")
    ports = c.mapping(spec.get("portLevelMtls"), "spec.portLevelMtls")
    if ports and not labels:
        c.refuse("spec.portLevelMtls", sorted(map(str, ports)), "needs a selector with at least one label")
    for port, mtls in ports.items():
        path = f"spec.portLevelMtls[{port}]"
        try:
            # One spelling only: two entries for one port would leave open which of them counts.
            read_port(str(port))
        except ValueError:
            c.refuse(path, port, "accepted is a workload port from 1 to 65535")
        _mode(c, mtls, path)
    namespace = c.mapping(manifest.get("metadata"), "metadata").get("namespace")
    if labels and namespace == root_namespace:
        c.warnings.append(
            f"spec.selector: a PeerAuthentication with a selector in the root namespace {root_namespace} applies to no "
            "workload; move it to the workload's namespace, or remove the selector to set the mesh's mode"
        )


def _mode(c: Checker, mtls: object, path: str) -> None:
    mode = c.mapping(mtls, path, ("mode",)).get("mode")
    if mode is not None and mode not in MODES:
        c.refuse(f"{path}.mode", mode, "accepted are " + ", ".join(MODES))


def check_request_authentication(c: Checker, manifest: Mapping[str, Any]) -> None:
    """Issuers, audiences and where keys and tokens come from."""
    spec = c.mapping(manifest.get("spec"), "spec", ("selector", "targetRef", "targetRefs", "jwtRules"))
    c.attachment(spec)
    for index, rule in enumerate(c.sequence(spec.get("jwtRules"), "spec.jwtRules")):
        path = f"spec.jwtRules[{index}]"
        if not isinstance(rule, Mapping):
            c.refuse(path, rule if rule is not None else "null", "must be an object with at least an issuer")
            continue
        c.mapping(rule, path, _JWT_FIELDS)
        _jwt_rule(c, rule, path)


def _jwt_rule(c: Checker, rule: Mapping[str, Any], path: str) -> None:
    if not c.text(rule, "issuer", path):
        c.refuse(f"{path}.issuer", None, "the issuer (claim iss) of the tokens")
    c.strings(rule.get("audiences"), f"{path}.audiences")
    c.strings(rule.get("fromParams"), f"{path}.fromParams")
    c.strings(rule.get("fromCookies"), f"{path}.fromCookies")
    c.strings(rule.get("spaceDelimitedClaims"), f"{path}.spaceDelimitedClaims")
    _header_name(c, rule, "outputPayloadToHeader", path)
    _timeout(c, rule, path)
    uri = c.text(rule, "jwksUri", path) or c.text(rule, "jwks_uri", path)
    keys = c.text(rule, "jwks", path)
    if uri and keys:
        c.refuse(f"{path}.jwks", "(set)", "at most one of jwks and jwksUri may be set")
    if uri and (problem := _jwks_uri_problem(uri)):
        c.refuse(f"{path}.jwksUri", uri, problem)
    for index, header in enumerate(c.sequence(rule.get("fromHeaders"), f"{path}.fromHeaders")):
        where = f"{path}.fromHeaders[{index}]"
        if not _header_name(c, c.mapping(header, where, ("name", "prefix")), "name", where):
            c.refuse(f"{where}.name", None, "the name of the header that carries the token")
    for index, output in enumerate(c.sequence(rule.get("outputClaimToHeaders"), f"{path}.outputClaimToHeaders")):
        where = f"{path}.outputClaimToHeaders[{index}]"
        for key in ("header", "claim"):
            if not c.text(c.mapping(output, where, ("header", "claim")), key, where):
                c.refuse(f"{where}.{key}", None, f"the {key} must be named")
        _header_name(c, output, "header", where)


def _header_name(c: Checker, holder: object, key: str, path: str) -> str:
    name = c.text(holder, key, path) if isinstance(holder, Mapping) else ""
    if name and not _HEADER_NAME.fullmatch(name):
        c.refuse(f"{path}.{key}", name, "accepted is the name of an HTTP header")
    return name


def _timeout(c: Checker, rule: Mapping[str, Any], path: str) -> None:
    if not (text := c.text(rule, "timeout", path)):
        return
    try:
        usable = read_duration(text) >= _SHORTEST_TIMEOUT
    except ValueError:
        usable = False
    if not usable:
        c.refuse(f"{path}.timeout", text, "accepted is a duration of at least 1ms, as in 5s")


def _jwks_uri_problem(uri: str) -> str | None:
    """Keys are fetched by the control plane, so a URI that leads back to it, or to a metadata service, is refused."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return "accepted is an http or https URL"
    if parts.scheme not in ("http", "https") or not host:
        return "accepted is an http or https URL with a host"
    if host == "localhost" or host.endswith(".localhost"):
        return "must not lead to the control plane's own host"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return "must not lead to a loopback, link-local, unspecified or multicast address"
    return None
