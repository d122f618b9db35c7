"""Up, down, and what stands in the way: each a clear sentence, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import yaml

from tests.e2e.mesh import BIN, STATE, command, tulle
from tulle.cluster import supervisor


def footprint() -> dict[str, set[str]]:
    """What a mesh could leave on the machine."""

    def rows(*arguments: str) -> set[str]:
        return {line.split("@")[0] for line in command(*arguments).output.splitlines() if line}

    return {
        "netns": rows("ip", "netns", "list"),
        "links": {line.split(": ")[1].split("@")[0] for line in command("ip", "-o", "link").output.splitlines()},
        "routes": rows("ip", "route"),
        "tables": rows("nft", "list", "tables"),
        "mounts": {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()},
        "processes": {process.name for process in Path("/proc").glob("[0-9]*") if of_the_cluster(process)},
    }


def of_the_cluster(process: Path) -> bool:
    """Whether it runs on the state directory, or in a root that was made there."""
    try:
        command_line = (process / "cmdline").read_text()
        return "pytest" not in command_line and str(STATE) in command_line + (process / "mountinfo").read_text()
    except OSError:
        return False


@pytest.fixture
def nothing() -> None:
    assert tulle("down").code == 0


def test_a_cluster_comes_and_goes_without_a_trace(nothing: None, tmp_path: Path) -> None:
    before = footprint()
    mine = tmp_path / "config"
    mine.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "work",
                "clusters": [{"name": "work", "cluster": {"server": "https://example.invalid"}}],
                "users": [{"name": "me", "user": {}}],
                "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me"}}],
            }
        )
    )
    own = {"KUBECONFIG": str(mine)}

    up = tulle("up", env=own)
    assert up.code == 0, up.output
    again = tulle("up", env=own)
    assert again.code == 1
    assert "Tulle is up already (profile lesson" in again.output
    assert "`tulle down` takes it down" in again.output
    assert tulle("status").code == 0
    assert tulle("kubeconfig").output.strip() == str(STATE / "kubeconfig")
    config = yaml.safe_load(mine.read_text())
    assert config["current-context"] == "tulle"
    assert [c["name"] for c in config["contexts"]] == ["work", "tulle"]
    assert "istiod" in command("kubectl", "get", "pods", "-n", "istio-system", env=own).output

    down = tulle("down", env=own)
    assert (down.code, down.output.strip()) == (0, "Tulle is down.")
    config = yaml.safe_load(mine.read_text())
    assert (config["current-context"], [c["name"] for c in config["contexts"]]) == ("work", ["work"])
    second = tulle("down", env=own)
    assert second.code == 0
    assert "Nothing to take down" in second.output
    assert tulle("status").code == 1
    assert footprint() == before


def test_a_busy_port(nothing: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        refused = tulle("up", "--port", str(port), "--no-kubeconfig")
    assert refused.code == 1
    assert (
        f"port {port} on 127.0.0.1 cannot be used (Address already in use): choose another with --port"
        in refused.output
    )
    assert "Nothing to take down" in tulle("down").output


def test_an_unknown_profile(nothing: None) -> None:
    refused = tulle("up", "--profile", "ambient", "--no-kubeconfig")
    assert refused.code == 1
    assert "profile 'ambient' is not known; accepted are istio, lesson" in refused.output


def test_without_root(nothing: None) -> None:
    refused = command("unshare", "--user", str(BIN / "tulle"), "up", "--no-kubeconfig")
    assert refused.code == 1
    assert "root is needed" in refused.output


def test_down_after_a_crash(nothing: None) -> None:
    before = footprint()
    assert tulle("up", "--no-kubeconfig").code == 0
    pids = dict(supervisor.pids(STATE))
    for pid in (pids.pop("supervisor"), *pids.values()):
        os.kill(pid, signal.SIGKILL)
    assert tulle("down").code == 0
    assert footprint() == before
