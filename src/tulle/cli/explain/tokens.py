"""What a bearer token is worth to the policies of a waypoint.

A token counts only where a RequestAuthentication that is attached to the waypoint accepts its issuer: then its claims are facts, a bad
one is refused with 401, and without any RequestAuthentication a token is a header like any other (C4). The signature is not checked
here; that it is good is an assumption of the answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
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
    """`claims` if the token counts, `refused` if it is answered with 401, and a sentence on why."""

    claims: Mapping[str, Any] | None = None
    refused: bool = False
    note: str = ""


def read(token: str) -> Mapping[str, Any]:
    """The claims of a JWT, unverified. Raises InputError."""
    parts = token.removeprefix("Bearer ").split(".")
    if len(parts) != 3:
        raise InputError(f"--jwt: found {len(parts)} parts; accepted is header.claims.signature, each in base64url")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError) as error:
        raise InputError(f"--jwt: the second part is no JSON in base64url: {error}") from error
    if not isinstance(claims, Mapping):
        raise InputError("--jwt: the claims are no JSON object")
    return claims


def judge(world: World, waypoint: WaypointView, service: ServiceView | None, token: str, now: float) -> Verdict:
    """What the waypoint makes of the token. Raises InputError for one that is no JWT."""
    claims = read(token)
    attached = list(_attached(world, waypoint, service))
    if not attached:
        return Verdict(
            note=f"no RequestAuthentication is attached to waypoint {waypoint.key}, so the token counts for nothing"
        )
    rules = [(one, rule) for one in attached for rule in one.jwt_rules if rule.issuer == claims.get("iss")]
    if not rules:
        issuers = ", ".join(rule.issuer for one in attached for rule in one.jwt_rules)
        return Verdict(refused=True, note=f"the token's issuer is {claims.get('iss')!r}; accepted are {issuers}")
    expiry = claims.get("exp")
    if isinstance(expiry, int | float) and expiry < now:
        return Verdict(refused=True, note="the token has expired")
    for policy, rule in rules:
        if _for_us(rule, claims):
            note = f"{policy.meta} accepts the token's issuer; its signature was taken to be good"
            return Verdict(_split(rule, claims), note=note)
    return Verdict(
        refused=True,
        note=f"the token's audience {claims.get('aud')!r} is not accepted for issuer {claims.get('iss')!r}",
    )


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
    given = claims.get("aud")
    audiences = {given} if isinstance(given, str) else set(given or ())
    return not rule.audiences or not audiences.isdisjoint(rule.audiences)
