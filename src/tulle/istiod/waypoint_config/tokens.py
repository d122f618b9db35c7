"""RequestAuthentications as Envoy's JWT filter: who may issue tokens for a target, and what a verified token leaves behind.

A request without a token passes, one with a token that no rule accepts is answered with 401 (spec C4). What a token says is put where
the policies' conditions look for it. Keys stand in the configuration: they are fetched by istiod, which guards what is fetched, and
never by Envoy. An issuer whose keys are not known keeps its place, with keys that are said to be where nothing is: its tokens are
still looked for, and every one of them is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2

from tulle.envoy.wire import seconds
from tulle.istiod.waypoint_config.view import TokenView
from tulle.security.envoy_match import JWT_PAYLOAD

_NOWHERE = "no keys"
"""A cluster that does not exist."""
SPACE_DELIMITED = ("scope", "permission")
"""Claims that hold a list in one string; a policy's condition on them matches any element."""


def filter_config(tokens: Sequence[TokenView]) -> config_pb2.JwtAuthentication:
    """The JWT filter for the rules `tokens`; without any it does nothing."""
    config = config_pb2.JwtAuthentication()
    if not tokens:
        return config
    for token in tokens:
        config.providers[token.name].CopyFrom(_provider(token))
    rule = config.rules.add(match=route_components_pb2.RouteMatch(prefix="/"))
    accepted = rule.requires.requires_any.requirements
    for token in tokens:
        accepted.add(provider_name=token.name)
    accepted.add().allow_missing.SetInParent()
    return config


def _provider(token: TokenView) -> config_pb2.JwtProvider:
    rule = token.rule
    provider = config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        forward_payload_header=rule.output_payload_header,
        payload_in_metadata=JWT_PAYLOAD,
    )
    if token.keys:
        provider.local_jwks.inline_string = token.keys
    else:
        provider.remote_jwks.http_uri.uri = "http://no.keys.invalid/"
        provider.remote_jwks.http_uri.cluster = _NOWHERE
        provider.remote_jwks.http_uri.timeout.CopyFrom(seconds(1))
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(
        dict.fromkeys((*SPACE_DELIMITED, *rule.space_delimited_claims))
    )
    for name, prefix in rule.from_headers:
        provider.from_headers.add(name=name, value_prefix=prefix)
    for header, claim in rule.output_claims:
        provider.claim_to_headers.add(header_name=header, claim_name=claim)
    return provider
