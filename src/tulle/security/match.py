"""How one value of a policy matches one fact.

Strings have four forms, addresses are prefixes, ports are numbers (C3). Every pattern is compiled once into a predicate;
the wire forms for ztunnel are made from the same parsed pattern, so that the two cannot drift apart.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Predicate = Callable[[str], bool]

_IP_TEXT = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
_PORT_TEXT = re.compile(r"[1-9][0-9]{0,4}")
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class StringForm(enum.Enum):
    """The forms of a string pattern; the value is the name of the arm of istio.security.StringMatch."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENCE = "presence"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """A string pattern; ``value`` is empty for PRESENCE."""

    form: StringForm
    value: str = ""

    def matches(self, text: str) -> bool:
        """Whether ``text`` matches, by case-sensitive comparison."""
        match self.form:
            case StringForm.EXACT:
                return text == self.value
            case StringForm.PREFIX:
                return text.startswith(self.value)
            case StringForm.SUFFIX:
                return text.endswith(self.value)
            case StringForm.PRESENCE:
                return text != ""


def read_string(pattern: str) -> StringMatch:
    """Read a pattern: ``*``, ``x*``, ``*x`` or exact. A leading star is tested before a trailing one (C3)."""
    if pattern == "*":
        return StringMatch(StringForm.PRESENCE)
    if pattern.startswith("*"):
        return StringMatch(StringForm.SUFFIX, pattern[1:])
    if pattern.endswith("*"):
        return StringMatch(StringForm.PREFIX, pattern[:-1])
    return StringMatch(StringForm.EXACT, pattern)


@lru_cache(maxsize=16384)
def string_predicate(pattern: str) -> Predicate:
    """A predicate for a pattern of ``read_string``; says what ``StringMatch.matches`` says, without looking at the form."""
    read = read_string(pattern)
    value = read.value
    match read.form:
        case StringForm.EXACT:
            return exact_predicate(value)
        case StringForm.PREFIX:
            return lambda text: text.startswith(value)
        case StringForm.SUFFIX:
            return lambda text: text.endswith(value)
        case StringForm.PRESENCE:
            return lambda text: text != ""


@lru_cache(maxsize=4096)
def host_predicate(pattern: str) -> Predicate:
    """As ``string_predicate`` without regard to case; a port is part of the host (C3)."""
    matches = string_predicate(ascii_lower(pattern))
    return lambda host: matches(ascii_lower(host))


def ascii_lower(text: str) -> str:
    """Lower case for ASCII letters only, as Envoy compares; str.lower would also fold letters such as the Kelvin sign."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


@lru_cache(maxsize=4096)
def glob_predicate(pattern: str) -> Predicate:
    """A star anywhere stands for any run of characters; a lone star needs at least one (namespaces at a waypoint)."""
    compiled = re.compile(glob_regex(pattern))
    return lambda text: compiled.fullmatch(text) is not None


def glob_regex(pattern: str) -> str:
    """The regular expression of a pattern within one segment of an identity: every other character is literal."""
    if pattern == "*":
        return "[^/]+"
    return "[^/]*".join(re.escape(part) for part in pattern.split("*"))


@lru_cache(maxsize=16384)
def read_network(text: str) -> IPNetwork:
    """Read an address or CIDR; host bits are masked, IPv4-mapped IPv6 becomes IPv4. Raises ValueError."""
    if not _IP_TEXT.fullmatch(text):
        raise ValueError(f"{text!r} is not an IP address or CIDR")
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


@lru_cache(maxsize=16384)
def read_address(text: str) -> IPAddress | None:
    """Read a peer's address, IPv4-mapped IPv6 as IPv4; None for "" and for anything that is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def address_bits(text: str) -> tuple[int, int] | None:
    """The version and number of an address as ``read_address`` reads it; the common form much faster."""
    try:
        return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        address = read_address(text)
        return None if address is None else (address.version, int(address))


@lru_cache(maxsize=16384)
def network_predicate(text: str) -> Predicate:
    """Whether an address lies in a network. An unreadable address lies in none."""
    network = read_network(text)

    def matches(candidate: str) -> bool:
        address = read_address(candidate)
        return address is not None and address.version == network.version and address in network

    return matches


def read_port(text: str) -> int:
    """Read a port, 1 to 65535, in plain decimal. Raises ValueError."""
    if not _PORT_TEXT.fullmatch(text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port")
    return int(text)


def exact_predicate(value: str) -> Predicate:
    """Equality, for values in which a star has no meaning."""
    return lambda text: text == value


def read_service_account(value: str, policy_namespace: str) -> tuple[str, str]:
    """Read ``ns/sa`` or ``sa``; the latter is in the policy's own namespace (C3)."""
    namespace, slash, name = value.partition("/")
    return (namespace, name) if slash else (policy_namespace, value)


_BLANKS = " \t"
_TRIM: Mapping[StringForm, Callable[[str, str], str]] = {
    StringForm.EXACT: str.strip,
    StringForm.PREFIX: str.lstrip,
    StringForm.SUFFIX: str.rstrip,
}
"""Blanks beside an element are no part of it, so a pattern is held against it without those at the ends that it fixes."""


def header_elements(value: str) -> tuple[str, ...]:
    """A header's value, and if it is a list its elements too, trimmed in each way in which a pattern may want them: repeating a
    header and joining with commas say the same (RFC 9110, 5.3), and proxies turn the one into the other."""
    if "," not in value:
        return (value,)
    parts = value.split(",")
    return tuple(dict.fromkeys((value, *(trim(part, _BLANKS) for part in parts for trim in _TRIM.values()))))


def _of_an_element(read: StringMatch) -> bool:
    """Whether an element can match a pattern, and not only a whole value."""
    if read.form is StringForm.PRESENCE or not read.value or "," in read.value:
        return False
    return _TRIM[read.form](read.value, _BLANKS) == read.value


@lru_cache(maxsize=4096)
def element_predicate(pattern: str) -> Predicate:
    """Whether a header's value matches, or if it is a list one of its elements."""
    matches, read = string_predicate(pattern), read_string(pattern)
    if not _of_an_element(read):
        return matches
    trim = _TRIM[read.form]
    return lambda value: (
        matches(value) or ("," in value and any(matches(trim(part, _BLANKS)) for part in value.split(",")))
    )


def element_regex(pattern: str) -> str | None:
    """The expression of a whole header value one of whose elements matches; None when only whole values can match.

    It is one for RE2 only: what stands beside the element is any bytes (``\\C``), for where RE2 reads UTF-8 a dot would let a single
    other byte hide the element."""
    read = read_string(pattern)
    if not _of_an_element(read):
        return None
    before = r"\C*" if read.form is StringForm.SUFFIX else r"(?:\C*,)?[ \t]*"
    after = r"\C*" if read.form is StringForm.PREFIX else r"[ \t]*(?:,\C*)?"
    return before + re.escape(read.value) + after


def split_request_principal(value: str) -> tuple[str, str]:
    """Split a pattern ``iss/sub`` at its last slash (C3).

    Without a slash a leading star leaves the issuer open, a trailing one the subject, and an exact value matches no token.
    """
    issuer, slash, subject = value.rpartition("/")
    if slash:
        return issuer, subject
    if value.startswith("*"):
        return "*", value
    if value.endswith("*"):
        return value, "*"
    return "", value
