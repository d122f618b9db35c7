"""The last words of a container: the file at terminationMessagePath or, if it wants so and failed, the end of its
log.
"""

from __future__ import annotations

from pathlib import Path

from tulle.cluster.node.pods.spec import Container

MAX_FILE = 4096
MAX_LOG = 2048
MAX_LINES = 80


def path(pod_directory: Path, container: str, attempt: int) -> Path:
    """The file that is mounted at the container's terminationMessagePath."""
    return pod_directory / "messages" / f"{container}-{attempt}"


def read(container: Container, file: Path, log: Path, exit_code: int) -> str:
    """The message, at most 4096 bytes (2048 bytes or 80 lines from a log)."""
    text = ""
    if file.is_file():
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE).decode(errors="replace")
    if text or exit_code == 0 or container.termination_message_policy != "FallbackToLogsOnError" or not log.is_file():
        return text
    with log.open("rb") as opened:
        opened.seek(0, 2)
        opened.seek(max(0, opened.tell() - 4 * MAX_LOG))
        lines = opened.read().decode(errors="replace").splitlines()[-MAX_LINES:]
    words = (line.split(" ", 3) for line in lines)
    return "".join(parts[3] + "\n" for parts in words if len(parts) == 4)[-MAX_LOG:]
