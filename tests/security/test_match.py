"""Patterns of single values: tables of the published rules, and independent slow references."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.match import (
    StringForm,
    glob_predicate,
    host_predicate,
    network_predicate,
    read_network,
    read_port,
    read_service_account,
    read_string,
    split_request_principal,
    string_predicate,
)

letters = st.text("ab*.", max_size=6)


@pytest.mark.parametrize(
    ("pattern", "form", "value"),
    [
        ("*", StringForm.PRESENCE, ""),
        ("x*", StringForm.PREFIX, "x"),
        ("*x", StringForm.SUFFIX, "x"),
        ("*x*", StringForm.SUFFIX, "x*"),
        ("x", StringForm.EXACT, "x"),
        ("a*b", StringForm.EXACT, "a*b"),
        ("**", StringForm.SUFFIX, "*"),
    ],
)
def test_string_forms(pattern: str, form: StringForm, value: str) -> None:
    assert (read_string(pattern).form, read_string(pattern).value) == (form, value)


def test_presence_is_of_something() -> None:
    assert not read_string("*").matches("")
    assert read_string("*").matches("x")


def test_case_is_folded_alike_with_and_without_other_letters() -> None:
    assert host_predicate("Ab*")("aB\u00e9")
    assert host_predicate("*\u00e9Ab")("x\u00e9aB")


def slow_string(pattern: str, text: str) -> bool:
    """Character by character, from the rule: leading star first, then trailing star, else equality."""
    if list(pattern) == ["*"]:
        return len(text) > 0
    if pattern[:1] == "*":
        tail = pattern[1:]
        return len(text) >= len(tail) and all(text[len(text) - len(tail) + i] == tail[i] for i in range(len(tail)))
    if pattern[-1:] == "*":
        head = pattern[:-1]
        return len(text) >= len(head) and all(text[i] == head[i] for i in range(len(head)))
    return len(text) == len(pattern) and all(left == right for left, right in zip(text, pattern, strict=True))


@given(letters.filter(bool), letters)
def test_strings_agree_with_the_slow_reference(pattern: str, text: str) -> None:
    assert string_predicate(pattern)(text) == read_string(pattern).matches(text) == slow_string(pattern, text)


def slow_glob(pattern: str, text: str) -> bool:
    """By recursion: a star takes no character, or one and stays."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return slow_glob(pattern[1:], text) or (bool(text) and text[0] != "/" and slow_glob(pattern, text[1:]))
    return bool(text) and text[0] == pattern[0] and slow_glob(pattern[1:], text[1:])


@given(letters.filter(bool), st.text("ab./", max_size=6))
def test_globs_agree_with_the_slow_reference(pattern: str, text: str) -> None:
    expected = slow_glob(pattern, text) and not (pattern == "*" and not text)
    assert glob_predicate(pattern)(text) == expected


@given(st.text("aBc:*", min_size=1, max_size=5), st.text("AbC:", max_size=5))
def test_hosts_ignore_case(pattern: str, host: str) -> None:
    assert host_predicate(pattern)(host) == slow_string(pattern.lower(), host.lower())


def test_hosts_fold_ascii_only() -> None:
    assert not host_predicate("\N{KELVIN SIGN}")("k")


def slow_contains(network: str, address: str) -> bool:
    """Bit strings: the address must begin with the network's first bits."""
    text, _, length = network.partition("/")
    left, right = ipaddress.ip_address(text), ipaddress.ip_address(address)
    if left.version != right.version:
        return False
    width = left.max_prefixlen
    bits = int(length) if length else width
    return f"{int(left):0{width}b}"[:bits] == f"{int(right):0{width}b}"[:bits]


addresses = st.one_of(
    st.ip_addresses(v=4, network="10.0.0.0/28"), st.ip_addresses(v=4), st.ip_addresses(v=6, network="2001:db8::/124")
).map(str)
networks = addresses.flatmap(
    lambda text: (
        st.integers(0, ipaddress.ip_address(text).max_prefixlen).map(lambda bits: f"{text}/{bits}") | st.just(text)
    )
)


@given(networks, addresses)
def test_networks_agree_with_the_slow_reference(network: str, address: str) -> None:
    assert network_predicate(network)(address) == slow_contains(network, address)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.0/33", "10.0.0", "10.0.0.0/255.0.0.0", "10.0.0.0/", "fe80::1%eth0", " 10.0.0.1", "a", "1/1", "::/129"],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_network(text)


@pytest.mark.parametrize("text", ["", "0", "65536", "80 ", "080", "-1", "8O", "1e3", "٨٠"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match="not a port"):
        read_port(text)


def test_ports() -> None:
    assert (read_port("1"), read_port("65535")) == (1, 65535)


def test_unreadable_peers_lie_in_no_network() -> None:
    assert not network_predicate("0.0.0.0/0")("")
    assert not network_predicate("0.0.0.0/0")("no address")
    assert network_predicate("::ffff:10.0.0.0/104")("10.9.9.9")


def test_service_accounts() -> None:
    assert read_service_account("a", "own") == ("own", "a")
    assert read_service_account("b/a", "own") == ("b", "a")


@pytest.mark.parametrize(
    ("value", "issuer", "subject"),
    [
        ("i/s", "i", "s"),
        ("https://i/x/s", "https://i/x", "s"),
        ("*", "*", "*"),
        ("i*", "i*", "*"),
        ("*s", "*", "*s"),
        ("i/*", "i", "*"),
        ("alone", "", "alone"),
    ],
)
def test_request_principals(value: str, issuer: str, subject: str) -> None:
    assert split_request_principal(value) == (issuer, subject)
