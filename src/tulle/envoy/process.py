"""One Envoy process: started, watched, started again when it crashes, and never left behind.

The owner hands over a bootstrap and gets callbacks; Envoy's own log lines arrive as text so that the owner decides what becomes
of them.  A crash is answered by a new start with the same bootstrap (the configuration comes back by xDS) after a back-off
that is reset once the process has stayed up.  The kernel kills Envoy when its owner dies (see launcher).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tulle.envoy import launcher
from tulle.envoy.bootstrap import TcpSocket, UnixSocket

LogSink = Callable[[str], None]


class EnvoyState(enum.Enum):
    """Life of the supervised process."""

    STOPPED = "stopped"
    STARTING = "starting"
    LIVE = "live"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"


class BootstrapRejectedError(Exception):
    """`envoy --mode validate` refused a bootstrap; the text is Envoy's own."""


@dataclass(frozen=True)
class Restart:
    """Back-off between two starts, in seconds; reset after the process has stayed up for `stable_after`."""

    first: float = 0.1
    cap: float = 10.0
    stable_after: float = 30.0

    def delay(self, failures: int) -> float:
        """Delay before start number `failures` + 1, with up to 20 % of jitter so that two proxies do not move in step."""
        return min(self.cap, self.first * 2.0 ** min(failures - 1, 16)) * random.uniform(0.8, 1.0)  # noqa: S311


@dataclass(frozen=True)
class EnvoyOptions:
    """How to run the binary.

    concurrency: worker threads; None is one for two CPUs, since those who talk through the proxy need the rest (with a worker for
    each CPU the workers wake each other for every message, at nearly twice the CPU per request).  drain_seconds: for how long a
    removed listener or filter chain keeps its open connections and, with or without any, its memory; 45 is upstream's of a gateway.
    log_level: Envoy's own logger, e.g. "warning".  flush_seconds: how long a line of an access log may wait.
    """

    concurrency: int | None = None
    drain_seconds: int = 45
    log_level: str = "warning"
    component_log_level: str = ""
    stop_grace: float = 5.0
    flush_seconds: float = 10.0
    restart: Restart = Restart()


class EnvoyProcess:
    """A supervised Envoy.

    `run_dir` receives the bootstrap file (mode 0600).  `admin` must be the address that the bootstrap names.
    `on_log` gets every line of Envoy's stdout and stderr; `on_state` every change of state.  With `on_stdout` the lines of
    stdout go there instead, many at a time and undecoded, for access logs that somebody reads.
    """

    def __init__(
        self,
        binary: str,
        bootstrap: Mapping[str, Any],
        *,
        run_dir: Path,
        admin: UnixSocket | TcpSocket,
        options: EnvoyOptions | None = None,
        on_log: LogSink | None = None,
        on_state: Callable[[EnvoyState], None] | None = None,
        on_stdout: Callable[[list[bytes]], None] | None = None,
        name: str = "envoy",
    ) -> None:
        self._binary = binary
        self._bootstrap = dict(bootstrap)
        self._run_dir = run_dir
        self._options = options or EnvoyOptions()
        self._on_log = on_log
        self._on_state = on_state
        self._on_stdout = on_stdout
        self._name = name
        self._process: asyncio.subprocess.Process | None = None
        self._state = EnvoyState.STOPPED
        self._stopping = asyncio.Event()
        self._live = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self.starts = 0
        self.admin = AdminClient(admin)

    @property
    def state(self) -> EnvoyState:
        return self._state

    @property
    def pid(self) -> int | None:
        """Process id of the running Envoy, None between two runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start supervising; returns at once.  `wait_live` waits for the first configuration."""
        if self._supervisor is not None:
            raise RuntimeError(f"{self._name}: already started")
        self._run_dir.mkdir(parents=True, exist_ok=True)
        path = self._bootstrap_path
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._bootstrap))
        self._supervisor = asyncio.create_task(self._supervise(), name=f"{self._name}-supervisor")

    async def wait_live(self) -> None:
        """Until Envoy says that it serves (its first listeners and clusters have arrived)."""
        await self._live.wait()

    async def failed(self) -> None:
        """Ends only if supervision itself breaks; raises its error.  Await it beside the owner's own tasks."""
        if self._supervisor is None:
            raise RuntimeError(f"{self._name}: not started")
        await asyncio.shield(self._supervisor)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace period.  Idempotent."""
        self._stopping.set()
        if self._supervisor is not None:
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await self.admin.close()
        self._bootstrap_path.unlink(missing_ok=True)

    async def validate(self) -> None:
        """Have Envoy check the bootstrap without running it.  Raises BootstrapRejectedError."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        path = self._run_dir / f"{self._name}.validate.json"
        path.write_text(json.dumps(self._bootstrap))
        try:
            process = await asyncio.create_subprocess_exec(
                *[self._binary, "--mode", "validate", "-c", str(path), "-l", "error"],
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await process.communicate()
        finally:
            path.unlink(missing_ok=True)
        if process.returncode != 0:
            raise BootstrapRejectedError(output.decode(errors="replace").strip())

    # -- supervision --------------------------------------------------------------------------------------------------

    @property
    def _bootstrap_path(self) -> Path:
        return self._run_dir / f"{self._name}.json"

    def _set_state(self, state: EnvoyState) -> None:
        if state is self._state:
            return
        self._state = state
        if state is EnvoyState.LIVE:
            self._live.set()
        else:
            self._live.clear()
        if self._on_state is not None:
            self._on_state(state)

    def _arguments(self) -> list[str]:
        options = self._options
        argv = [self._binary, "-c", str(self._bootstrap_path), "-l", options.log_level]
        argv += ["--log-format", "%Y-%m-%dT%T.%FZ %l envoy %n %v"]
        argv += ["--concurrency", str(options.concurrency or _half_of_the_cpus())]
        argv += [
            "--drain-time-s",
            str(options.drain_seconds),
            "--parent-shutdown-time-s",
            str(options.drain_seconds + 60),
        ]
        argv += ["--disable-hot-restart", "--file-flush-interval-msec", str(round(options.flush_seconds * 1000))]
        if options.component_log_level:
            argv += ["--component-log-level", options.component_log_level]
        return argv

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while not self._stopping.is_set():
                began = loop.time()
                await self._run_once()
                if self._stopping.is_set():
                    break
                failures = 1 if loop.time() - began >= self._options.restart.stable_after else failures + 1
                self._set_state(EnvoyState.BACKING_OFF)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._options.restart.delay(failures)):
                        await self._stopping.wait()
        finally:
            await self._end()
            self._set_state(EnvoyState.STOPPED)

    async def _run_once(self) -> None:
        self._set_state(EnvoyState.STARTING)
        self._process = process = await asyncio.create_subprocess_exec(
            *launcher.command(os.getpid(), self._arguments()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self.starts += 1
        tasks = [asyncio.create_task(self._read_log(stream)) for stream in (process.stderr,) if stream]
        if process.stdout is not None:
            tasks.append(asyncio.create_task(self._read_stdout(process.stdout)))
        tasks.append(asyncio.create_task(self._watch_ready()))
        reading = asyncio.gather(*tasks[:-1])
        exited = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            # Output that is not read any more would bring Envoy to a stand; of an orderly end the exit tells more.
            ends: set[asyncio.Future[Any]] = {exited, stopping}
            await asyncio.wait({*ends, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if process.returncode is None:
                self._set_state(EnvoyState.STOPPING)
            await self._end()
            await exited
            self._log_exit(process.returncode)
        finally:
            await self._end()
            stopping.cancel()
            for task in tasks[-1:]:
                task.cancel()
            await asyncio.gather(*tasks, reading, stopping, exited, return_exceptions=True)

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._options.stop_grace):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _log_exit(self, code: int | None) -> None:
        if self._on_log is None or self._stopping.is_set():
            return
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self._on_log(f"{self._name} ended by {how}; starting it again")

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            if self._on_log is not None:
                self._on_log(line.decode(errors="replace").rstrip("\n"))

    async def _read_stdout(self, stream: asyncio.StreamReader) -> None:
        if self._on_stdout is None:
            await self._read_log(stream)
            return
        rest = b""
        while chunk := await stream.read(1 << 18):
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                self._on_stdout(lines)

    async def _watch_ready(self) -> None:
        """Poll /ready until Envoy is live; quick at first, since a start takes less than 100 ms."""
        delay = 0.01
        while not await self.admin.ready():
            await asyncio.sleep(delay)
            delay = min(delay * 1.3, 0.25)
        self._set_state(EnvoyState.LIVE)


def _half_of_the_cpus() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 2)


class AdminClient:
    """Envoy's admin interface.  Requests raise aiohttp.ClientError when Envoy is not there."""

    def __init__(self, address: UnixSocket | TcpSocket) -> None:
        self._address = address
        self._client: aiohttp.ClientSession | None = None

    def _http(self) -> aiohttp.ClientSession:
        if self._client is None:
            timeout = aiohttp.ClientTimeout(total=10)
            if isinstance(self._address, UnixSocket):
                self._client = aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(self._address.path, force_close=True), timeout=timeout
                )
            else:
                self._client = aiohttp.ClientSession(timeout=timeout)
        return self._client

    def _url(self, path: str) -> str:
        if isinstance(self._address, UnixSocket):
            return "http://envoy" + path
        return f"http://{self._address.host}:{self._address.port}{path}"

    async def get(self, path: str) -> str:
        async with self._http().get(self._url(path)) as response:
            response.raise_for_status()
            return await response.text()

    async def post(self, path: str) -> str:
        async with self._http().post(self._url(path)) as response:
            response.raise_for_status()
            return await response.text()

    async def ready(self) -> bool:
        """Whether Envoy answers /ready with 200: its first listeners and clusters are in place."""
        try:
            async with self._http().get(self._url("/ready")) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
