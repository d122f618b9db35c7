"""Who is calling: a service account's token, or a certificate that this authority signed earlier.

Both end in the same ``Caller``. A token is judged by the API server (TokenReview, audience ``istio-ca``), which knows
of deleted pods and revoked accounts; its verdict is kept for some seconds, because a node proxy that starts asks for
dozens of certificates with one token. Only a hash of the token is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from tulle.kube.client import Client
from tulle.kube.errors import ApiError
from tulle.kube.resources import TOKEN_REVIEWS
from tulle.security.identity import Identity, InvalidIdentity

AUDIENCE: Final = "istio-ca"

_ACCOUNT_PREFIX: Final = "system:serviceaccount:"
_EXTRA: Final = "authentication.kubernetes.io/"
_CACHE_SECONDS: Final = 20.0
_CACHE_ENTRIES: Final = 4096
_MAX_TOKEN: Final = 16 * 1024


class NotAuthenticated(Exception):  # noqa: N818 (a verdict, not a fault)
    """The caller did not prove who it is. The message is for the log; the caller is told nothing of it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A proved service account. The pod and node are those the token is bound to; empty when it proves none."""

    identity: Identity
    pod_name: str = ""
    pod_uid: str = ""
    node: str = ""


class TokenReviewer:
    """Judges tokens by the API server's TokenReview. ``clock`` is monotonic, in seconds."""

    def __init__(self, client: Client, trust_domain: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._trust_domain = trust_domain
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller]] = {}

    async def review(self, token: str) -> Caller:
        """The account the token is of. Raises NotAuthenticated; ApiError when the API cannot be asked."""
        if len(token) > _MAX_TOKEN:
            raise NotAuthenticated(f"the token has {len(token)} characters; at most {_MAX_TOKEN} are accepted")
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is not None and self._clock() < known[0]:
            return known[1]
        return await self._ask_once(key, token)

    async def _ask_once(self, key: bytes, token: str) -> Caller:
        """One question per token at a time, however many wait for its answer."""
        task = self._asking.get(key)
        if task is None:
            task = asyncio.ensure_future(self._ask(token))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)

    def _keep(self, key: bytes, task: asyncio.Task[Caller]) -> None:
        del self._asking[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._known[key] = (self._clock() + _CACHE_SECONDS, task.result())
        self._known.move_to_end(key)
        while len(self._known) > _CACHE_ENTRIES:
            self._known.popitem(last=False)

    async def _ask(self, token: str) -> Caller:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        answer = await self._client.create(TOKEN_REVIEWS, review)
        return read_review(answer.get("status", {}), self._trust_domain)


def read_review(status: Mapping[str, Any], trust_domain: str) -> Caller:
    """The caller that a TokenReview's status names. Raises NotAuthenticated."""
    if not status.get("authenticated"):
        raise NotAuthenticated(f"the API server does not accept the token: {status.get('error') or 'no reason given'}")
    audiences = status.get("audiences", [])
    if AUDIENCE not in audiences:
        raise NotAuthenticated(f"the token is for the audiences {audiences}; {AUDIENCE!r} is accepted")
    user = status.get("user", {})
    name = str(user.get("username", ""))
    parts = name.removeprefix(_ACCOUNT_PREFIX).split(":")
    if not name.startswith(_ACCOUNT_PREFIX) or len(parts) != 2:
        raise NotAuthenticated(f"the token is of {name!r}, which is no service account")
    extra = user.get("extra") or {}
    return Caller(
        Identity(trust_domain, parts[0], parts[1]),
        pod_name=_single(extra, "pod-name"),
        pod_uid=_single(extra, "pod-uid"),
        node=_single(extra, "node-name"),
    )


def _single(extra: Mapping[str, Sequence[str]], key: str) -> str:
    values = extra.get(_EXTRA + key) or ()
    return values[0] if len(values) == 1 else ""


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Proves who a gRPC call is from: by its client certificate if it has one, else by its bearer token.

    ``review`` judges tokens; ``trust_domain`` is the one whose certificates are accepted.
    """

    review: Callable[[str], Awaitable[Caller]]
    trust_domain: str

    async def caller(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
        """Raises NotAuthenticated."""
        names = context.auth_context().get("x509_subject_alternative_name")
        if names:
            return self._of_certificate([bytes(name) for name in names])
        try:
            return await self.review(_bearer(context.invocation_metadata() or ()))
        except ApiError as error:
            raise NotAuthenticated(f"the API server could not be asked about the token: {error}") from error

    def _of_certificate(self, names: Sequence[bytes]) -> Caller:
        if len(names) != 1:
            raise NotAuthenticated(f"the client certificate has {len(names)} names; one is accepted")
        try:
            identity = Identity.parse(names[0].decode())
        except (InvalidIdentity, UnicodeDecodeError) as error:
            raise NotAuthenticated(f"the client certificate's name is no identity: {error}") from error
        if identity.trust_domain != self.trust_domain:
            raise NotAuthenticated(
                f"the client certificate's trust domain is {identity.trust_domain!r}; accepted is {self.trust_domain!r}"
            )
        return Caller(identity)


def _bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        raise NotAuthenticated(f"the call has neither a client certificate nor one token (found {len(values)})")
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated("the authorization metadata is not a bearer token")
    return token.strip()
