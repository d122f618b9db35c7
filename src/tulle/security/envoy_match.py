"""One term of a policy as matchers of Envoy's RBAC.

Every value is escaped before it enters a regular expression: a dot in a service account's name is a dot
(CVE-2026-39350). Header matchers test each value of a repeated header on its own, as Envoy does since CVE-2026-26308.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .evaluation import by_element, expand_methods
from .identity import SCHEME
from .match import (
    StringForm,
    element_regex,
    glob_regex,
    network_predicate,
    read_network,
    read_service_account,
    read_string,
    split_request_principal,
)
from .mesh import MeshSettings
from .paths import is_template, template_regex
from .terms import Attribute, Term
from .trust import expand_principals, expand_trust_domains

Json = dict[str, Any]

JWT_FILTER = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"
PEER_PRINCIPAL = "peer_principal"


@dataclass(frozen=True)
class Inputs:
    """How facts reach the filter.

    ``principal_key``: filter state object that holds the client's SPIFFE ID, "" to read it from the connection's TLS.
    ``source_ip_key``: filter state object that holds the client's address, "" to take the connection's direct remote
    address; ``remote_ip_key`` likewise for the remote address.
    ``port``: the destination port, None to read it from the connection. ``addresses``: the destination's addresses, None to
    read them from the connection.
    """

    principal_key: str = PEER_PRINCIPAL
    source_ip_key: str = ""
    remote_ip_key: str = ""
    port: int | None = None
    addresses: tuple[str, ...] | None = None


def principal(term: Term, namespace: str, settings: MeshSettings, inputs: Inputs, denies: bool) -> list[Json]:
    """Principal matchers, at least one per value; any of them may hold. The term's negation is the caller's. ``denies``: the
    term is of a policy whose match keeps the request out."""
    values = term.values
    match term.attribute:
        case Attribute.PRINCIPAL:
            return [_identity(_principal_string(v), inputs) for v in expand_principals(values, settings.trust_domains)]
        case Attribute.NAMESPACE:
            return [_identity(_regex(_spiffe(namespace=glob_regex(value))), inputs) for value in values]
        case Attribute.SERVICE_ACCOUNT:
            accounts = (read_service_account(value, namespace) for value in values)
            return [_identity(_regex(_spiffe(re.escape(ns), re.escape(name))), inputs) for ns, name in accounts]
        case Attribute.TRUST_DOMAIN:
            domains = expand_trust_domains(values, settings.trust_domains)
            return [_identity(_regex(f"{SCHEME}{glob_regex(domain)}/.*"), inputs) for domain in domains]
        case Attribute.SOURCE_IP:
            return [_address(value, inputs.source_ip_key, "direct_remote_ip") for value in values]
        case Attribute.REMOTE_IP:
            return [_address(value, inputs.remote_ip_key, "remote_ip") for value in values]
        case Attribute.HEADER:
            return [m for value in values for m in _request_header(term.argument[0], value, by_element(term, denies))]
        case Attribute.REQUEST_PRINCIPAL:
            return [_token_principal(value) for value in values]
        case Attribute.AUDIENCE:
            return [_claim(("aud",), value) for value in values]
        case Attribute.PRESENTER:
            return [_claim(("azp",), value) for value in values]
        case Attribute.CLAIM:
            return [_claim(term.argument, value) for value in values]
        case _:
            raise AssertionError(f"{term.path}: {term.attribute} is no principal")


def permission(term: Term, settings: MeshSettings, inputs: Inputs) -> list[Json]:
    """Permission matchers, one per value; any of them may hold. The term's negation is the caller's."""
    values = term.values
    match term.attribute:
        case Attribute.HOST:
            return [_header(":authority", string_matcher(value, ignore_case=True)) for value in values]
        case Attribute.METHOD:
            methods = expand_methods(values, settings.head_is_get)
            return [_header(":method", string_matcher(value)) for value in methods]
        case Attribute.PATH:
            return [{"url_path": {"path": _path(value)}} for value in values]
        case Attribute.SNI:
            return [{"requested_server_name": string_matcher(value)} for value in values]
        case Attribute.DESTINATION_PORT:
            return [_port(int(value), inputs) for value in values]
        case Attribute.DESTINATION_IP:
            return [_destination_ip(value, inputs) for value in values]
        case Attribute.FILTER_METADATA:
            return [_filter_metadata(term.argument, value) for value in values]
        case _:
            raise AssertionError(f"{term.path}: {term.attribute} is no permission")


def string_matcher(pattern: str, ignore_case: bool = False) -> Json:
    """A StringMatcher for one of the four string forms."""
    read = read_string(pattern)
    if read.form is StringForm.PRESENCE:
        # Any bytes, also where RE2 is built to take a dot for a character of UTF-8: clients may send what is none.
        return _regex(r"\C+")
    matcher: Json = {read.form.value: read.value}
    if ignore_case:
        matcher["ignore_case"] = True
    return matcher


def _regex(regex: str) -> Json:
    return {"safe_regex": {"regex": regex}}


def _spiffe(namespace: str, account: str = "[^/]+") -> str:
    return f"{SCHEME}[^/]+/ns/{namespace}/sa/{account}"


def _principal_string(pattern: str) -> Json:
    """The scheme is implied in every form, so that no pattern can match within it (C3)."""
    read = read_string(pattern)
    match read.form:
        case StringForm.EXACT | StringForm.PREFIX:
            return {read.form.value: SCHEME + read.value}
        case StringForm.SUFFIX:
            return _regex(f"{SCHEME}.*{re.escape(read.value)}")
        case StringForm.PRESENCE:
            return _regex(f"{SCHEME}.+")


def _identity(matcher: Json, inputs: Inputs) -> Json:
    if inputs.principal_key:
        return {"filter_state": {"key": inputs.principal_key, "string_match": matcher}}
    return {"authenticated": {"principal_name": matcher}}


def _cidr(value: str) -> Json:
    network = read_network(value)
    return {"address_prefix": str(network.network_address), "prefix_len": network.prefixlen}


def _address(value: str, key: str, field: str) -> Json:
    if key:
        return {"filter_state": {"key": key, "address_match": {"ranges": [_cidr(value)]}}}
    return {field: _cidr(value)}


def _constant(holds: bool) -> Json:
    return {"any": True} if holds else {"not_rule": {"any": True}}


def _port(port: int, inputs: Inputs) -> Json:
    return {"destination_port": port} if inputs.port is None else _constant(port == inputs.port)


def _destination_ip(value: str, inputs: Inputs) -> Json:
    if inputs.addresses is None:
        return {"destination_ip": _cidr(value)}
    inside = network_predicate(value)
    return _constant(any(inside(address) for address in inputs.addresses))


def _header(name: str, matcher: Json) -> Json:
    return {"header": {"name": name, "string_match": matcher}}


def _request_header(name: str, value: str, elements: bool) -> list[Json]:
    """Envoy joins what is repeated of some headers (User-Agent, Accept, X-Forwarded-For and others) before it matches."""
    whole = [_header(name, string_matcher(value))]
    regex = element_regex(value) if elements else None
    return whole if regex is None else [*whole, _header(name, _regex(regex))]


def _path(pattern: str) -> Json:
    return _regex(template_regex(pattern)) if is_template(pattern) else string_matcher(pattern)


def _metadata(filter_name: str, path: tuple[str, ...], value: Json) -> Json:
    return {"metadata": {"filter": filter_name, "path": [{"key": step} for step in path], "value": value}}


def _claim(path: tuple[str, ...], pattern: str) -> Json:
    """A claim may be a string or a list of strings, of which any may match."""
    matcher = string_matcher(pattern)
    where = (JWT_PAYLOAD, *path)
    as_string = _metadata(JWT_FILTER, where, {"string_match": matcher})
    as_list = _metadata(JWT_FILTER, where, {"list_match": {"one_of": {"string_match": matcher}}})
    return {"or_ids": {"ids": [as_string, as_list]}}


def _token_principal(value: str) -> Json:
    issuer, subject = split_request_principal(value)
    parts = (("iss", issuer), ("sub", subject))
    if not issuer:
        return {"not_id": {"any": True}}
    ids = [_metadata(JWT_FILTER, (JWT_PAYLOAD, key), {"string_match": string_matcher(text)}) for key, text in parts]
    return {"and_ids": {"ids": ids}}


def _filter_metadata(argument: tuple[str, ...], value: str) -> Json:
    """``[x]`` as a value means that the metadata is a list with an element x."""
    if value.startswith("[") and value.endswith("]"):
        inner: Json = {"list_match": {"one_of": {"string_match": string_matcher(value[1:-1])}}}
    else:
        inner = {"string_match": string_matcher(value)}
    return _metadata(argument[0], argument[1:], inner)
