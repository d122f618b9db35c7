"""The certificates as this node's Envoy is served them: each under two names.

A listener asks for an identity's certificate under the identity, connections ask for it under `client|<identity>`.  They
have to differ because Envoy does not answer a second subscriber to a name on the same stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from tulle.xds import types
from tulle.xds.resources import ResourceMap
from tulle.ztunnel.config.names import client_secret

_CLIENT = client_secret("")


class SecretSource(Protocol):
    """What `tulle.envoy.certificates.CertificateManager` offers here."""

    secrets: ResourceMap

    def demand(self, identity: str) -> None:
        """Somebody waits for that identity's certificate."""


class NodeSecrets:
    """A copy of a source's secrets, kept in step, with client names added."""

    def __init__(self, source: SecretSource) -> None:
        self._source = source
        self.secrets = ResourceMap(types.SECRET, on_wanted=self._wanted)
        source.secrets.subscribe(self._copy)
        self._copy(source.secrets)

    def _wanted(self, name: str) -> None:
        self._source.demand(name.removeprefix(_CLIENT))

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
                self.secrets.set(secret.name, secret)
