"""Running ``ip``, ``bridge`` and ``nft`` in batches: one process per batch, so that wiring a pod costs a few
milliseconds.

All of them are told what to do on standard input, never by building shell text, and every refusal carries the tool's
own words.
"""

import asyncio
from collections.abc import Mapping, Sequence


class CommandError(Exception):
    """A tool refused; the message has the command and what it printed."""


async def run(command: Sequence[str], stdin: str = "", *, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its standard output. Raises CommandError on a non-zero exit."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        out, err = await process.communicate(stdin.encode())
    except asyncio.CancelledError:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
        raise CommandError(f"`{' '.join(command)}` exited {process.returncode}: {said}")
    return out.decode(errors="replace")


async def ip_batch(lines: Sequence[str]) -> None:
    """``ip -batch`` in the current network namespace; stops at the first refusal."""
    await run(["ip", "-batch", "-"], "\n".join(lines) + "\n")


async def bridge_batch(lines: Sequence[str]) -> None:
    """``bridge -batch`` in the current network namespace."""
    await run(["bridge", "-batch", "-"], "\n".join(lines) + "\n")


async def nft(script: str) -> None:
    """Apply a script as one nftables transaction: all of it or none of it."""
    await run(["nft", "-f", "-"], script)
