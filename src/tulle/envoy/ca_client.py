"""The authority as seen from a proxy: one call, with a token that is read anew each time because it rotates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import grpc

from tulle.xds import channels
from tulle.xds.proto import ca_pb2

_METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
_SECONDS: Final = 10.0
_UNREACHABLE: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class CaError(Exception):
    """No certificate was given. ``unreachable``: nobody answered (as against a refusal)."""

    def __init__(self, message: str, *, unreachable: bool) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class CaClient:
    """Asks the authority at ``address`` (host:port), whose certificate must chain to ``root_cert_path``.

    The caller is known by a service account token: the content of ``token_path``, or ``token``; without either the
    call is made without one. ``lifetime`` is what is asked for, in seconds.
    """

    def __init__(
        self,
        address: str,
        root_cert_path: Path | str,
        token_path: Path | str | None = None,
        *,
        token: str = "",
        cluster_id: str = "Kubernetes",
        server_name: str = "",
        lifetime: int = 24 * 3600,
    ) -> None:
        self._address = address
        self._connect = channels.tls(address, Path(root_cert_path), server_name=server_name)
        self._token_path = None if token_path is None else Path(token_path)
        self._token = token
        self._cluster_id = cluster_id
        self._lifetime = lifetime
        self._channel: grpc.aio.Channel | None = None

    async def sign(self, identity: str, csr_pem: bytes, impersonate: bool) -> tuple[str, ...]:
        """The chain for a request, leaf first and roots last (E4). ``impersonate``: for another than the caller.

        Raises CaError.
        """
        request = ca_pb2.IstioCertificateRequest(csr=csr_pem.decode(), validity_duration=self._lifetime)
        request.metadata.fields["ClusterID"].string_value = self._cluster_id
        if impersonate:
            request.metadata.fields["ImpersonatedIdentity"].string_value = identity
        try:
            channel = self._open()
            metadata = self._metadata()
        except OSError as error:
            raise CaError(f"cannot ask {self._address}: {error}", unreachable=True) from error
        call = channel.unary_unary(
            _METHOD,
            request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
            response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
        )
        try:
            response = await call(request, timeout=_SECONDS, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            unreachable = error.code() in _UNREACHABLE
            if unreachable:
                await self._discard(channel)
            raise CaError(
                f"{self._address} answers {error.code().name} for {identity}: {error.details()}",
                unreachable=unreachable,
            ) from error
        except asyncio.CancelledError as error:
            # Another call found nobody there and closed the channel: that cancels this call, and not whoever makes it.
            if _is_cancelled():
                raise
            raise CaError(f"{self._address} does not answer for {identity}", unreachable=True) from error
        return tuple(response.cert_chain)

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = self._connect()
        return self._channel

    async def _discard(self, channel: grpc.aio.Channel) -> None:
        """Start afresh next time: the root may have changed, or the address lead elsewhere."""
        if channel is self._channel:
            self._channel = None
            await channel.close(None)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._token if self._token_path is None else self._token_path.read_text().strip()
        identified = (("clusterid", self._cluster_id),)
        return (*identified, ("authorization", f"Bearer {token}")) if token else identified

    async def close(self) -> None:
        """Close the connection; a later call opens it again."""
        if self._channel is not None:
            await self._discard(self._channel)


def _is_cancelled() -> bool:
    """Whether it is the running task that is to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
