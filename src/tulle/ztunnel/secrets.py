"""The certificates as this node's Envoy is served them: each under two names.

A listener asks for an identity's certificate under the identity, connections ask for it under `client|<identity>`.  They
have to differ because Envoy does not answer a second subscriber to a name on the same stream.

A listener waits for its certificate as long as it takes. A connection does not: when there is none for some seconds Envoy is told so,
which ends the handshake, and so the client is refused instead of left hanging (spec D2, step 0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from tulle.xds import types
from tulle.xds.resources import ResourceMap
from tulle.ztunnel.config.names import client_secret

PATIENCE_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 60.0
_CLIENT: Final = client_secret("")


class SecretSource(Protocol):
    """What `tulle.envoy.certificates.CertificateManager` offers here."""

    secrets: ResourceMap

    def demand(self, identity: str) -> None:
        """Somebody waits for that identity's certificate."""


class NodeSecrets:
    """A copy of a source's secrets, kept in step, with client names added.

    `patience`: seconds from the first connection that misses an identity's certificate until all that wait are refused, and the next ones
    at once; after a minute one waits again.
    """

    def __init__(self, source: SecretSource, patience: float = PATIENCE_SECONDS) -> None:
        self._source = source
        self._patience = patience
        self._missed: dict[str, float] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self.secrets = ResourceMap(types.SECRET, on_wanted=self._wanted, on_unwanted=self._unwanted)
        source.secrets.subscribe(self._copy)
        self._copy(source.secrets)

    def _wanted(self, name: str) -> None:
        self._source.demand(name.removeprefix(_CLIENT))
        if name.startswith(_CLIENT) and name not in self.secrets:
            loop = asyncio.get_running_loop()
            if loop.time() - self._missed.get(name, -_AGAIN_SECONDS) >= _AGAIN_SECONDS:
                self._missed[name] = loop.time()
            self._waiting[name] = loop.call_at(self._missed[name] + self._patience, self.secrets.give_up, name)

    def _unwanted(self, name: str) -> None:
        timer = self._waiting.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _copy(self, changed: Iterable[str]) -> None:
        for name in tuple(changed):
            entry = self._source.secrets.get(name)
            if entry is None:
                self.secrets.remove(name)
                self.secrets.remove(client_secret(name))
                continue
            secret = secret_pb2.Secret.FromString(entry.body())
            self.secrets.set(name, secret)
            if secret.HasField("tls_certificate"):
                secret.name = client_secret(name)
                self._missed.pop(secret.name, None)
                self.secrets.set(secret.name, secret)
