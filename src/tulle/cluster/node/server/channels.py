"""The remote-command protocol (`v5.channel.k8s.io`, `v4.channel.k8s.io`): bytes of several streams in one websocket.

Each message starts with a byte that names the channel. The last message is on the error channel and says how the
command ended; in version 5 a message of two bytes, 255 and the channel, closes a channel (kubectl closes stdin so).
"""

from __future__ import annotations

from typing import Any

import msgspec

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


def success() -> bytes:
    return _status({"status": "Success"})


def exit_code(code: int) -> bytes:
    """The command ran and ended with `code`."""
    if code == 0:
        return success()
    return _status(
        {
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": f"command terminated with non-zero exit code: exit status {code}",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    )


def failure(message: str) -> bytes:
    """The command could not be run."""
    return _status({"status": "Failure", "reason": "InternalError", "message": message, "code": 500})


def _status(fields: dict[str, Any]) -> bytes:
    document = {"kind": "Status", "apiVersion": "v1", "metadata": {}, **fields}
    return bytes([ERROR]) + msgspec.json.encode(document)


def size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a resize message, or None if it is none."""
    try:
        document = msgspec.json.decode(data, type=dict[str, int])
    except msgspec.DecodeError:
        return None
    rows, columns = document.get("Height", 0), document.get("Width", 0)
    return (rows, columns) if 0 < rows < 1 << 16 and 0 < columns < 1 << 16 else None
