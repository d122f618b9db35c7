"""Envoy's generic matchers (xds.type.matcher.v3): a decision tree whose leaves are actions.

Used where Envoy has to choose among filter chains or among routes.  A `Choice` is an action or a further matcher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2 as ip_input_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.message import Message
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import ip_pb2, matcher_pb2, string_pb2

from tulle.envoy.wire import pack

Network: TypeAlias = IPv4Network | IPv6Network
Choice: TypeAlias = matcher_pb2.Matcher.OnMatch
Predicate: TypeAlias = matcher_pb2.Matcher.MatcherList.Predicate
Input: TypeAlias = extension_pb2.TypedExtensionConfig

# -- leaves -----------------------------------------------------------------------------------------------------------


def use_chain(name: str) -> Choice:
    """The action "this filter chain of the listener"."""
    action = extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(wrappers_pb2.StringValue(value=name)))
    return matcher_pb2.Matcher.OnMatch(action=action)


def use_route(route: route_components_pb2.Route) -> Choice:
    """The action "this route"; the route's own `match` is evaluated too."""
    action = extension_pb2.TypedExtensionConfig(name=route.name or "route", typed_config=pack(route))
    return matcher_pb2.Matcher.OnMatch(action=action)


def use_matcher(matcher: matcher_pb2.Matcher) -> Choice:
    """Go on with another matcher."""
    return matcher_pb2.Matcher.OnMatch(matcher=matcher)


# -- inputs -----------------------------------------------------------------------------------------------------------


def destination_ip() -> Input:
    return _input("destination-ip", network_inputs_pb2.DestinationIPInput())


def destination_port() -> Input:
    return _input("destination-port", network_inputs_pb2.DestinationPortInput())


def source_ip() -> Input:
    return _input("source-ip", network_inputs_pb2.SourceIPInput())


def request_header(name: str) -> Input:
    return _input("header", http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name))


def filter_state(key: str) -> Input:
    """The text of a filter state object of the request or of its connection."""
    return _input("filter-state", network_inputs_pb2.FilterStateInput(key=key))


# -- predicates -------------------------------------------------------------------------------------------------------


def equals(value: Input, text: str) -> Predicate:
    return _single(value, string_pb2.StringMatcher(exact=text))


def matches(value: Input, regex: str) -> Predicate:
    """The whole text matches the RE2 expression."""
    matcher = string_pb2.StringMatcher()
    matcher.safe_regex.google_re2.SetInParent()
    matcher.safe_regex.regex = regex
    return _single(value, matcher)


def in_networks(value: Input, networks: Iterable[Network], stat_prefix: str = "ip") -> Predicate:
    """The text is an address in one of the networks."""
    config = ip_input_pb2.Ip(stat_prefix=stat_prefix)
    for network in networks:
        cidr = config.cidr_ranges.add()
        cidr.address_prefix = str(network.network_address)
        cidr.prefix_len.value = network.prefixlen
    predicate = matcher_pb2.Matcher.MatcherList.Predicate()
    predicate.single_predicate.input.CopyFrom(value)
    predicate.single_predicate.custom_match.name = "envoy.matching.matchers.ip"
    predicate.single_predicate.custom_match.typed_config.CopyFrom(pack(config))
    return predicate


def any_of(predicates: Sequence[Predicate]) -> Predicate:
    """At least one holds.  `predicates` is not empty."""
    if len(predicates) == 1:
        return predicates[0]
    predicate = matcher_pb2.Matcher.MatcherList.Predicate()
    predicate.or_matcher.predicate.extend(predicates)
    return predicate


def all_of(predicates: Sequence[Predicate]) -> Predicate:
    """Every one holds.  `predicates` is not empty."""
    if len(predicates) == 1:
        return predicates[0]
    predicate = matcher_pb2.Matcher.MatcherList.Predicate()
    predicate.and_matcher.predicate.extend(predicates)
    return predicate


def negate(inner: Predicate) -> Predicate:
    predicate = matcher_pb2.Matcher.MatcherList.Predicate()
    predicate.not_matcher.CopyFrom(inner)
    return predicate


# -- trees ------------------------------------------------------------------------------------------------------------


def first_match(cases: Iterable[tuple[Predicate, Choice]], otherwise: Choice | None = None) -> matcher_pb2.Matcher:
    """The choice of the first case whose predicate holds, else `otherwise`.  Without cases `otherwise` alone."""
    matcher = matcher_pb2.Matcher()
    for predicate, choice in cases:
        field = matcher.matcher_list.matchers.add()
        field.predicate.CopyFrom(predicate)
        field.on_match.CopyFrom(choice)
    if otherwise is not None:
        matcher.on_no_match.CopyFrom(otherwise)
    return matcher


def by_text(value: Input, choices: Mapping[str, Choice], otherwise: Choice | None = None) -> matcher_pb2.Matcher:
    """A look-up of the exact text, independent of the number of choices."""
    matcher = matcher_pb2.Matcher()
    matcher.matcher_tree.input.CopyFrom(value)
    for text, choice in choices.items():
        matcher.matcher_tree.exact_match_map.map[text].CopyFrom(choice)
    if otherwise is not None:
        matcher.on_no_match.CopyFrom(otherwise)
    return matcher


def by_network(
    value: Input, choices: Iterable[tuple[Sequence[Network], Choice]], otherwise: Choice | None = None
) -> matcher_pb2.Matcher:
    """A look-up of an address in a trie; the longest prefix decides."""
    config = ip_pb2.IPMatcher()
    for networks, choice in choices:
        entry = config.range_matchers.add()
        for network in networks:
            cidr = entry.ranges.add()
            cidr.address_prefix = str(network.network_address)
            cidr.prefix_len.value = network.prefixlen
        entry.on_match.CopyFrom(choice)
    matcher = matcher_pb2.Matcher()
    matcher.matcher_tree.input.CopyFrom(value)
    matcher.matcher_tree.custom_match.name = "envoy.matching.custom_matchers.ip_range_matcher"
    matcher.matcher_tree.custom_match.typed_config.CopyFrom(pack(config))
    if otherwise is not None:
        matcher.on_no_match.CopyFrom(otherwise)
    return matcher


def _input(name: str, message: Message) -> Input:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(message))


def _single(value: Input, matcher: string_pb2.StringMatcher) -> Predicate:
    predicate = matcher_pb2.Matcher.MatcherList.Predicate()
    predicate.single_predicate.input.CopyFrom(value)
    predicate.single_predicate.value_match.CopyFrom(matcher)
    return predicate
