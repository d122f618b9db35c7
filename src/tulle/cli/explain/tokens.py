"""What a bearer token is worth to the policies of a waypoint.

A token counts only where a RequestAuthentication that is attached to the waypoint accepts its issuer: then its claims are facts, a bad
one is refused with 401 (with 403 if all that is wrong is whom it is for), and where nobody looks for a token it is a header like any
other (C4). The signature is not checked here; that it is good is an assumption of the answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cli.explain.documents import InputError
from tulle.cli.explain.world import World
from tulle.istiod.waypoint_config.tokens import SPACE_DELIMITED
from tulle.security.attachment import attaches_at_waypoint
from tulle.security.model import JwtRule, RequestAuthentication
from tulle.security.parse import InvalidObject, parse_request_authentication
from tulle.security.views import ServiceView, WaypointView


@dataclass(frozen=True)
class Verdict:
    """`claims` if the token counts, `refused` the status that it is answered with if any, and a sentence on why."""

    claims: Mapping[str, Any] | None = None
    refused: str = ""
    note: str = ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_BAD, _NOT_FOR_US = "401", "403"
_SKEW = 60
"""Seconds by which Envoy takes its clock and the issuer's to differ."""
_TYPES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("iss", "sub", "jti"), (lambda value: isinstance(value, str), "a string")),
    **dict.fromkeys(("exp", "nbf", "iat"), (_is_number, "a number of seconds, 0 or more")),
    "aud": (lambda value: isinstance(value, str) or _is_strings(value), "a string or a list of strings"),
}
"""The claims that Envoy reads, and what it takes them to be; a token with one of another type is none to it."""


def read(token: str) -> Mapping[str, Any]:
    """The claims of a JWT, unverified. Raises InputError."""
    parts = token.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        raise InputError(f"--jwt: found {len(parts)} parts; accepted is header.claims.signature, each in base64url")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InputError(f"--jwt: the second part is no JSON in base64url: {error}") from error
    if not isinstance(claims, Mapping):
        raise InputError("--jwt: the claims are no JSON object")
    return claims


def judge(world: World, waypoint: WaypointView, service: ServiceView | None, token: str, now: float) -> Verdict:
    """What the waypoint makes of the token. Raises InputError for one that is no JWT."""
    claims = read(token)
    rules = [
        (one, rule) for one in _attached(world, waypoint, service) for rule in one.jwt_rules if _is_looked_for(rule)
    ]
    if not rules:
        return Verdict(
            note=f"no RequestAuthentication that is attached to waypoint {waypoint.key} has a rule in spec.jwtRules that looks for a "
            "bearer token in Authorization, so the token counts for nothing"
        )
    if problem := _malformed(claims):
        return Verdict(refused=_BAD, note=problem)
    issued = [(policy, rule) for policy, rule in rules if rule.issuer == claims.get("iss")]
    if not issued:
        issuers = ", ".join(dict.fromkeys(rule.issuer for _, rule in rules))
        return Verdict(refused=_BAD, note=f"the token's issuer is {claims.get('iss')!r}; accepted are {issuers}")
    if claims.get("exp") and claims["exp"] + _SKEW < now:
        return Verdict(refused=_BAD, note="the token has expired")
    if claims.get("nbf", 0) > now + _SKEW:
        return Verdict(refused=_BAD, note="the token is not valid yet (claim nbf)")
    for policy, rule in issued:
        if _for_us(rule, claims):
            note = f"{policy.meta} accepts the token's issuer; its signature was taken to be good"
            return Verdict(_split(rule, claims), note=note)
    accepted = ", ".join(dict.fromkeys(audience for _, rule in issued for audience in rule.audiences))
    note = f"the token's audience {claims.get('aud')!r} is not accepted for issuer {claims['iss']!r}; accepted are {accepted}"
    return Verdict(refused=_NOT_FOR_US, note=note)


def _is_looked_for(rule: JwtRule) -> bool:
    """Whether a rule reads Authorization, as it does unless it names other places."""
    elsewhere = rule.from_headers or rule.from_params or rule.from_cookies
    return not elsewhere or any(name.lower() == "authorization" for name, _ in rule.from_headers)


def _malformed(claims: Mapping[str, Any]) -> str:
    for name, (accepts, accepted) in _TYPES.items():
        if name in claims and not accepts(claims[name]):
            return f"the token's claim {name} is {claims[name]!r}; accepted is {accepted}"
    return ""


def _attached(world: World, waypoint: WaypointView, service: ServiceView | None) -> Iterator[RequestAuthentication]:
    root = world.settings.root_namespace
    for document in world.of("RequestAuthentication"):
        try:
            policy = parse_request_authentication(document.manifest)
        except InvalidObject as error:
            if world.live:
                continue
            raise InputError(f"{document.source}: {error}") from error
        if attaches_at_waypoint(policy, waypoint, service, root):
            yield policy


def _split(rule: JwtRule, claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """The claims as the waypoint hands them to policies: those that hold a list in one string are lists."""
    listed = {*SPACE_DELIMITED, *rule.space_delimited_claims}
    return {
        name: [part for part in value.split(" ") if part] if name in listed and isinstance(value, str) else value
        for name, value in claims.items()
    }


def _for_us(rule: JwtRule, claims: Mapping[str, Any]) -> bool:
    given = claims.get("aud", ())
    audiences = {_bare(one) for one in ((given,) if isinstance(given, str) else given)}
    return not rule.audiences or not audiences.isdisjoint(map(_bare, rule.audiences))


def _bare(audience: str) -> str:
    """An audience as Envoy compares it: a URL's scheme and the slash at its end do not matter."""
    return audience.removeprefix("http://").removeprefix("https://").removesuffix("/")
