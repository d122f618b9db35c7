"""A command in a pod, through the API server, as `kubectl exec` runs it (without stdin)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from tulle.cli.console import CommandError
from tulle.cli.podsocket import PodAction, connected
from tulle.kube.client import Client

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDOUT, _STDERR, _STATUS = 1, 2, 3


class ExecError(CommandError):
    """The command could not be run, or ended with another exit code than 0; the message holds what it wrote to stderr."""


async def run(client: Client, namespace: str, pod: str, container: str, command: Sequence[str]) -> bytes:
    """What the command wrote to stdout. Raises ExecError, PodSocketError."""
    flags = (("stdout", "true"), ("stderr", "true"), ("container", container))
    wanted = PodAction(namespace, pod, "exec", (*flags, *(("command", word) for word in command)))
    received: dict[int, bytearray] = {}
    async with connected(client, wanted, PROTOCOLS) as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and message.data:
                received.setdefault(message.data[0], bytearray()).extend(message.data[1:])
            if _STATUS in received:
                break
    status: dict[str, Any] = json.loads(received.get(_STATUS) or b"{}")
    if status.get("status") != "Success":
        said = received.get(_STDERR, bytearray()).decode(errors="replace").strip()
        raise ExecError(f"pod {namespace}/{pod}: {status.get('message') or 'the command did not end'}: {said}")
    return bytes(received.get(_STDOUT, b""))
