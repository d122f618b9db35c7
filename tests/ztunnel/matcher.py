"""Reads an Envoy matcher as Envoy would, for a given connection: the independent half of the policy tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf import wrappers_pb2

Facts = Mapping[str, str]


def choose(matcher: Any, facts: Facts) -> Any:
    """The action: a Route, a chain's name, or None.  `facts` are headers, or network inputs by their type's name."""
    kind = matcher.WhichOneof("matcher_type")
    found = None
    if kind == "matcher_list":
        for field in matcher.matcher_list.matchers:
            if _holds(field.predicate, facts):
                found = field.on_match
                break
    elif kind == "matcher_tree":
        tree = matcher.matcher_tree
        assert tree.WhichOneof("tree_type") == "exact_match_map"
        found = dict(tree.exact_match_map.map).get(_input(tree.input, facts))
    if found is None:
        found = matcher.on_no_match
    if found.WhichOneof("on_match") == "matcher":
        return choose(found.matcher, facts)
    packed = found.action.typed_config
    if packed.type_url.endswith("StringValue"):
        return wrappers_pb2.StringValue.FromString(packed.value).value
    return route_components_pb2.Route.FromString(packed.value)


def _input(config: Any, facts: Facts) -> str:
    packed = config.typed_config
    name = packed.type_url.rpartition(".")[2]
    if name == "HttpRequestHeaderMatchInput":
        header = http_inputs_pb2.HttpRequestHeaderMatchInput.FromString(packed.value)
        return facts.get(header.header_name, "")
    return facts[name]


def _holds(predicate: Any, facts: Facts) -> bool:
    match predicate.WhichOneof("match_type"):
        case "or_matcher":
            assert len(predicate.or_matcher.predicate) >= 2, "Envoy refuses fewer"
            return any(_holds(inner, facts) for inner in predicate.or_matcher.predicate)
        case "and_matcher":
            assert len(predicate.and_matcher.predicate) >= 2, "Envoy refuses fewer"
            return all(_holds(inner, facts) for inner in predicate.and_matcher.predicate)
        case "not_matcher":
            return not _holds(predicate.not_matcher, facts)
        case "single_predicate":
            return _single(predicate.single_predicate, facts)
    raise AssertionError(f"an empty predicate: {predicate}")


def _single(single: Any, facts: Facts) -> bool:
    value = _input(single.input, facts)
    if single.WhichOneof("matcher") == "custom_match":
        config = ip_pb2.Ip.FromString(single.custom_match.typed_config.value)
        networks = [ip_network(f"{cidr.address_prefix}/{cidr.prefix_len.value}") for cidr in config.cidr_ranges]
        return bool(value) and any(ip_address(value) in network for network in networks)
    match = single.value_match
    if match.WhichOneof("match_pattern") == "exact":
        return bool(value == match.exact)
    return re.fullmatch(match.safe_regex.regex, value, re.DOTALL) is not None if value else False
