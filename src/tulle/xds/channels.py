"""How a client reaches a server: over a unix socket beside it, or by TLS across the network.

Factories rather than channels, since a client that reconnects must read certificates anew (they rotate) and resolve
names anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    # A fresh channel per attempt must mean a fresh connection, and its own back-off must not hide ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


def unix(path: Path) -> Callable[[], grpc.aio.Channel]:
    """Channels to a unix socket. Access to the socket's file is what authenticates."""
    return lambda: grpc.aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS)


def tls(
    address: str,
    root_cert: Path,
    *,
    client_cert: Callable[[], tuple[bytes, bytes] | None] = lambda: None,
    server_name: str = "",
) -> Callable[[], grpc.aio.Channel]:
    """Channels to ``host:port``, whose certificate must chain to ``root_cert`` and name the host (or ``server_name``).

    ``client_cert`` gives a client certificate chain and its key (PEM) at each attempt, or ``None``.
    """

    def connect() -> grpc.aio.Channel:
        pair = client_cert()
        chain, key = pair if pair is not None else (None, None)
        credentials = grpc.ssl_channel_credentials(root_cert.read_bytes(), key, chain)
        options: tuple[tuple[str, int | str], ...] = CHANNEL_OPTIONS
        if server_name:
            options = (*options, ("grpc.ssl_target_name_override", server_name))
        return grpc.aio.secure_channel(address, credentials, options=options)

    return connect
