"""The Node object, the node's paths, the sandbox's program."""

import asyncio
import platform
from pathlib import Path
from typing import Any, cast

import pytest

from tulle import kube
from tulle.cluster.node import registration
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.registration import NodeIdentity, Registration
from tulle.cluster.node.runtime import pause, records
from tulle.cluster.node.runtime.records import Exit, Record
from tulle.cluster.node.server.app import common_name
from tulle.kube.errors import NotFound


def test_a_condition_is_dated_when_it_changes() -> None:
    first = registration.conditions([], False, "starting", 100.0)
    ready = registration.conditions(first, True, "fine", 200.0)
    later = registration.conditions(ready, True, "fine", 300.0)
    dates = {c["type"]: (c["status"], c["lastTransitionTime"]) for c in later}
    assert dates["Ready"] == ("True", "1970-01-01T00:03:20Z")
    assert dates["DiskPressure"] == ("False", "1970-01-01T00:01:40Z")
    assert {c["lastHeartbeatTime"] for c in later} == {"1970-01-01T00:05:00Z"}


async def test_ready_while_a_report_is_being_written_is_reported_at_once() -> None:
    reported: list[str] = []

    class Client:
        """An API server that takes its time: the node becomes ready while its first report is on its way."""

        async def get(self, *_: object) -> dict[str, object]:
            return {}

        async def patch(self, resource: object, name: str, body: dict[str, Any], *_: object, **__: object) -> object:
            if "status" not in body:
                raise NotFound(404, "NotFound", "no lease")
            reported.append(next(c["status"] for c in body["status"]["conditions"] if c["type"] == "Ready"))
            node.set_ready(True, "fine")
            await asyncio.sleep(0)
            return {}

        async def create(self, *_: object) -> object:
            return {}

    node = Registration(cast("kube.Client", Client()), NodeIdentity("n1", "1.2.3.4", "10.244.1.0/24", 10250, {}), {})
    working = asyncio.create_task(node.run())
    async with asyncio.timeout(30):
        while len(reported) < 2:
            await asyncio.sleep(0.01)
    working.cancel()
    await asyncio.wait((working,))
    assert reported == ["False", "True"]


def test_labels_name_the_node() -> None:
    labels = registration.labels(NodeIdentity("n1", "1.2.3.4", "10.244.1.0/24", 10250, {"x": "y"}))
    assert labels["kubernetes.io/hostname"] == "n1"
    assert labels["x"] == "y"


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/var/run/ztunnel", "/s/nodes/n/fs/var/run/ztunnel"),
        ("/proc", "/proc"),
        ("/proc/1/ns", "/proc/1/ns"),
        ("/sys/fs/cgroup", "/sys/fs/cgroup"),
        ("/process", "/s/nodes/n/fs/process"),
        ("/", "/s/nodes/n/fs"),
    ],
)
def test_host_paths_are_the_nodes_own(path: str, real: str) -> None:
    assert NodePaths(Path("/s"), "n").host_path(path) == Path(real)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_pause_program_is_a_small_elf(machine: str) -> None:
    program = pause.program(machine)
    assert program.startswith(b"\x7fELF\x02\x01\x01")
    assert len(program) < 300


def test_other_machines_are_refused() -> None:
    with pytest.raises(
        pause.UnsupportedMachineError, match="'riscv64' is not supported; pods can run on: aarch64, x86_64"
    ):
        pause.program("riscv64")


def test_installing_the_pause_program_again_changes_nothing(tmp_path: Path) -> None:
    pause.install(tmp_path)
    before = (tmp_path / "pause").stat()
    pause.install(tmp_path)
    assert (tmp_path / "pause").stat() == before
    assert (tmp_path / "pause").read_bytes() == pause.program(platform.machine())


def test_records_survive_and_tolerate_other_versions(tmp_path: Path) -> None:
    record = Record("c", "container", "u", "ns", "p", "c", 1)
    records.write(tmp_path, records.RECORD_FILE, record)
    assert records.read_record(tmp_path) == record
    text = (tmp_path / records.RECORD_FILE).read_text()
    (tmp_path / records.RECORD_FILE).write_text(text.replace("{", '{"new_field": 1, ', 1))
    assert records.read_record(tmp_path) == record
    assert records.read_exit(tmp_path) is None
    records.write(tmp_path, records.EXIT_FILE, Exit(exit_code=3, finished_at=1.0))
    assert records.read_exit(tmp_path) == Exit(exit_code=3, finished_at=1.0)


def test_the_peer_s_name_is_read() -> None:
    subject = ((("organizationName", "x"),), (("commonName", "kube-apiserver-kubelet-client"),))
    assert common_name({"subject": subject}) == "kube-apiserver-kubelet-client"
    assert common_name(None) == ""
