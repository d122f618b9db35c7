"""A small reading of Envoy's RBAC configuration, to hold what is emitted against what is decided.

It knows Envoy's documented meaning of the matchers and nothing of policies.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What the filter can see of a request."""

    filter_state: Mapping[str, str]
    direct_remote_ip: str
    remote_ip: str
    destination_ip: str
    destination_port: int
    headers: tuple[tuple[str, str], ...]
    payload: Mapping[str, Any] | None
    sni: str = ""
    path: str = ""


def permits(config: Json, seen: Seen) -> bool:
    """Whether a filter with this config lets the request pass."""
    rules = config.get("rules")
    if rules is None:
        return True
    hit = any(_policy(policy, seen) for policy in rules["policies"].values())
    return {"ALLOW": hit, "DENY": not hit, "LOG": True}[rules["action"]]


def _policy(policy: Json, seen: Seen) -> bool:
    permission = any(permission_holds(item, seen) for item in policy["permissions"])
    return permission and any(principal_holds(item, seen) for item in policy["principals"])


def permission_holds(item: Json, seen: Seen) -> bool:
    ((kind, value),) = item.items()
    match kind:
        case "any":
            return True
        case "and_rules":
            return all(permission_holds(inner, seen) for inner in value["rules"])
        case "or_rules":
            return any(permission_holds(inner, seen) for inner in value["rules"])
        case "not_rule":
            return not permission_holds(value, seen)
        case "header":
            return _header(value, seen)
        case "url_path":
            return _string(value["path"], seen.path)
        case "destination_port":
            return seen.destination_port == value
        case "destination_ip":
            return _cidr(value, seen.destination_ip)
        case "requested_server_name":
            return _string(value, seen.sni)
        case "metadata":
            return False
    raise AssertionError(kind)


def principal_holds(item: Json, seen: Seen) -> bool:
    ((kind, value),) = item.items()
    match kind:
        case "any":
            return True
        case "and_ids":
            return all(principal_holds(inner, seen) for inner in value["ids"])
        case "or_ids":
            return any(principal_holds(inner, seen) for inner in value["ids"])
        case "not_id":
            return not principal_holds(value, seen)
        case "filter_state":
            found = seen.filter_state.get(value["key"])
            if found is None:
                return False
            if "address_match" in value:
                return any(_cidr(prefix, found) for prefix in value["address_match"]["ranges"])
            return _string(value["string_match"], found)
        case "header":
            return _header(value, seen)
        case "direct_remote_ip":
            return _cidr(value, seen.direct_remote_ip)
        case "remote_ip":
            return _cidr(value, seen.remote_ip)
        case "metadata":
            return _metadata(value, seen)
    raise AssertionError(kind)


def _string(matcher: Json, text: str) -> bool:
    kinds = [kind for kind in matcher if kind != "ignore_case"]
    (kind,) = kinds
    value = matcher[kind]
    if kind == "safe_regex":
        return re.fullmatch(from_re2(value["regex"]), text) is not None
    if matcher.get("ignore_case"):
        value, text = value.lower(), text.lower()
    return {"exact": text == value, "prefix": text.startswith(value), "suffix": text.endswith(value)}[kind]


def from_re2(regex: str) -> str:
    """An expression of RE2 for Python. Bytes that are no UTF-8 stand in texts as ``surrogateescape`` writes them: to an RE2 that reads
    UTF-8 they are no characters, so that neither a dot nor a negated class takes them, but only ``\\C``. (The packaged Envoy's
    reads bytes, which the expressions must not count on.)"""
    meant = {r"\C": r"[\s\S]", ".": r"[^\n\udc80-\udcff]", "[^": r"[^\udc80-\udcff"}
    return re.sub(r"\\.|\[\^|\.", lambda found: meant.get(found[0], found[0]), regex)


def _header(value: Json, seen: Seen) -> bool:
    wanted = ":authority" if value["name"] == "host" else value["name"]
    return any(name.lower() == wanted and _string(value["string_match"], text) for name, text in seen.headers)


def _cidr(prefix: Json, text: str) -> bool:
    if not text:
        return False
    network = ipaddress.ip_network(f"{prefix['address_prefix']}/{prefix['prefix_len']}")
    address = ipaddress.ip_address(text)
    return address.version == network.version and address in network


def _metadata(value: Json, seen: Seen) -> bool:
    if value["filter"] != "envoy.filters.http.jwt_authn" or seen.payload is None:
        return False
    found: Any = {"payload": seen.payload}
    for step in value["path"]:
        if not isinstance(found, Mapping) or step["key"] not in found:
            return False
        found = found[step["key"]]
    matcher = value["value"]
    if "list_match" in matcher:
        inner = matcher["list_match"]["one_of"]["string_match"]
        return isinstance(found, list | tuple) and any(isinstance(x, str) and _string(inner, x) for x in found)
    return isinstance(found, str) and _string(matcher["string_match"], found)
