"""A network namespace joined to the host's by one veth pair, for a process under test that must have a network of its own."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Joined:
    """The namespace's name, and the addresses at the host's and at its own end."""

    name: str
    host: str
    inside: str

    def command(self, *command: str) -> list[str]:
        """A command line that runs inside."""
        return ["ip", "netns", "exec", self.name, *command]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def joined(name: str, network: str) -> Iterator[Joined]:
    """Make it, with the first two hosts of `network` ("169.254.90.0"/30) as addresses, and take it away."""
    base = network.rsplit(".", 1)[0]
    host, inside = f"{base}.1", f"{base}.2"
    link = name[:13]
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{host}/30", "dev", link)
        _ip("link", "set", link, "up")
        for arguments in (
            ("addr", "add", f"{inside}/30", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *arguments)
        yield Joined(name, host, inside)
    finally:
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
