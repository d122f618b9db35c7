"""Which keys the waypoints' tokens are verified with, and which of them must be fetched.

Keys written into a RequestAuthentication are used, as far as they can be; all others come from a `KeyStore`, which is told what is
wanted as soon as some target of a waypoint accepts tokens of the issuer, and left alone as soon as none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from tulle.istiod.index.records import WaypointKey
from tulle.istiod.index.state import Target
from tulle.istiod.jwks.fetch import Issuer
from tulle.istiod.jwks.keys import NoUsableKeysError, usable
from tulle.istiod.waypoint_config.view import TokenView
from tulle.security.model import JwtRule

log = structlog.get_logger("tulle.istiod.waypoints")

User = tuple[WaypointKey, Target]


def _nothing_fetched(_: Issuer) -> str:
    return ""


def _nobody_fetches(_: Mapping[Issuer, float]) -> None:
    return


class TokenKeys:
    """The keys of each rule's issuer. `fetched` gives what a store has ("" for nothing), `want` tells it what is needed."""

    def __init__(
        self,
        fetched: Callable[[Issuer], str] = _nothing_fetched,
        want: Callable[[Mapping[Issuer, float]], None] = _nobody_fetches,
    ) -> None:
        self._fetched = fetched
        self._want = want
        self._used: dict[User, Mapping[Issuer, float]] = {}
        self._wanted: Mapping[Issuer, float] = {}
        self._dirty = False

    def of(self, rule: JwtRule) -> str:
        """The JSON Web Key Set for a rule, "" for none: then no token passes by the rule."""
        if not rule.jwks:
            return self._fetched(_issuer(rule))
        try:
            return usable(rule.jwks)
        except NoUsableKeysError as error:
            log.error("jwks of a RequestAuthentication cannot be used", issuer=rule.issuer, reason=str(error))
            return ""

    def use(self, user: User, tokens: Iterable[TokenView]) -> None:
        """A target of a waypoint accepts these tokens now."""
        found: dict[Issuer, float] = {}
        for token in tokens:
            if not token.rule.jwks:
                issuer = _issuer(token.rule)
                found[issuer] = max(token.rule.timeout, found.get(issuer, 0.0))
        if found != self._used.get(user, {}):
            self._dirty = True
            self._used.pop(user, None)
            if found:
                self._used[user] = found

    def users(self, issuer: Issuer) -> tuple[User, ...]:
        """The targets that accept tokens of an issuer by keys that are fetched."""
        return tuple(user for user, issuers in self._used.items() if issuer in issuers)

    def settle(self) -> None:
        """Tell the store what is wanted, if that changed."""
        if not self._dirty:
            return
        self._dirty = False
        wanted: dict[Issuer, float] = {}
        for issuers in self._used.values():
            for issuer, timeout in issuers.items():
                wanted[issuer] = max(timeout, wanted.get(issuer, 0.0))
        self._want(wanted)


def _issuer(rule: JwtRule) -> Issuer:
    return Issuer(rule.issuer, rule.jwks_uri)
