"""From a connection's certificate or a bearer token to a user.

A request without credentials stays anonymous and is refused by the caller except on the health and version paths; bad
credentials are refused always.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tulle.cluster.apiserver.auth.tokens import ISSUER, TokenError, TokenSigner
from tulle.cluster.apiserver.auth.users import ANONYMOUS, AUTHENTICATED, User, service_account_user
from tulle.cluster.apiserver.errors import unauthorized
from tulle.cluster.store import Key, Store

_EXTRA = "authentication.kubernetes.io/"


class Authenticator:
    """Knows the token key and looks at the store, so that a token dies with its ServiceAccount, pod or node."""

    def __init__(self, store: Store, signer: TokenSigner) -> None:
        self._store = store
        self._signer = signer

    def authenticate(self, peer_certificate: Mapping[str, Any] | None, authorization: str) -> User:
        """The user behind a verified client certificate or an Authorization header. Raises StatusError 401."""
        if peer_certificate:
            return _certificate_user(peer_certificate)
        if not authorization:
            return ANONYMOUS
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized()
        try:
            return self.token_user(token.strip(), (ISSUER,))[0]
        except TokenError:
            raise unauthorized() from None

    def token_user(self, token: str, audiences: tuple[str, ...]) -> tuple[User, tuple[str, ...]]:
        """(user, those of `audiences` that the token is for). Raises TokenError."""
        claims = self._signer.verify(token)
        if claims.get("iss") != ISSUER:
            raise TokenError(f"issuer: found {claims.get('iss')!r}, want {ISSUER!r}")
        now = time.time()
        if not isinstance(claims.get("exp"), int | float) or claims["exp"] <= now:
            raise TokenError("the token has expired")
        if claims.get("nbf", 0) > now + 1:
            raise TokenError("the token is not valid yet")
        own = claims.get("aud") or ()
        shared = tuple(audience for audience in audiences if audience in ((own,) if isinstance(own, str) else own))
        if not shared:
            raise TokenError(f"audience: found {own!r}, want one of {audiences!r}")
        return self._bound_user(claims), shared

    def _bound_user(self, claims: Mapping[str, Any]) -> User:
        bound = claims.get("kubernetes.io") or {}
        namespace = str(bound.get("namespace", ""))
        account = bound.get("serviceaccount") or {}
        self._check_alive(Key("serviceaccounts", namespace, account.get("name", "")), account.get("uid", ""))
        extra = {f"{_EXTRA}credential-id": (f"JTI={claims['jti']}",)} if claims.get("jti") else {}
        for field, resource, scope in (
            ("pod", "pods", namespace),
            ("node", "nodes", ""),
            ("secret", "secrets", namespace),
        ):
            reference = bound.get(field)
            if not reference:
                continue
            # A pod's token names its node for information only.
            if field != "node" or not bound.get("pod"):
                self._check_alive(Key(resource, scope, reference.get("name", "")), reference.get("uid", ""))
            extra[f"{_EXTRA}{field}-name"] = (reference.get("name", ""),)
            extra[f"{_EXTRA}{field}-uid"] = (reference.get("uid", ""),)
        return service_account_user(namespace, account.get("name", ""), account.get("uid", ""), extra)

    def _check_alive(self, key: Key, uid: str) -> None:
        record = self._store.get(key)
        if record is None or record.decode()["metadata"].get("uid") != uid:
            raise TokenError(
                f"the {key.resource} {key.namespace}/{key.name} (uid {uid}) that the token is bound to is gone"
            )


def _certificate_user(certificate: Mapping[str, Any]) -> User:
    name = ""
    groups: list[str] = []
    for relative in certificate.get("subject", ()):
        for attribute, value in relative:
            if attribute == "commonName":
                name = value
            elif attribute == "organizationName":
                groups.append(value)
    if not name:
        raise unauthorized()
    return User(name, (*groups, AUTHENTICATED))
