"""Rules, cgroup shapes, the plugin's protocol, its installation, and settings: the parts that need no kernel."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from network import objects as o
from network.fake_api import FakeApi

from tulle.cluster.node.network.namespaces import pod_processes
from tulle.cni.agent import Agent
from tulle.cni.enrolment import DATAPLANE_MODE, Redirection
from tulle.cni.install import InstallError, chained, entry, install, program
from tulle.cni.netns import PodNetns, _processes, belongs_to, find
from tulle.cni.plugin_api import AddRequest, BadRequestError, parse
from tulle.cni.probes import host_ruleset
from tulle.cni.rules import pod_ruleset
from tulle.cni.settings import Settings, SettingsError, from_environment
from tulle.kube.objects import Namespace, Pod, PodSpec, PodStatus

UID = "0f7c1c7e-9d3e-4f4e-8a51-3d0f6a6b7c8d"
FLAT = UID.replace("-", "_")
OTHER = "5b1f6d0a-37c1-4e0a-9a59-1d2f3e4a5b6c"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (f"0::/kubepods/pod{UID}/abc", True),
        (f"0::/../../kubepods/pod{UID}/abc", True),
        (f"0::/../pod{UID}", True),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{FLAT}.slice/cri-containerd-abc.scope",
            True,
        ),
        (f"12:memory:/kubepods.slice/kubepods-pod{FLAT}.slice/docker-abc.scope\n0::/", True),
        (f"0::/system.slice/containerd.service/kubepods-besteffort-pod{FLAT}.slice:cri-containerd:abc", True),
        (f"0::/kubepods/besteffort/pod{UID}/abc", True),
        (f"0::/kubepods/pod{UID}0/abc", False),
        (f"0::/kubepods/pod{UID[:-1]}/abc", False),
        (f"0::/kubepods/x{UID}/abc", False),
        (f"0::/kubepods/pod{OTHER}/abc/pod{UID}", False),
        (
            f"0::/../../kubepods-pod{OTHER.replace('-', '_')}.slice/cri-containerd-abc.scope/kubepods-pod{FLAT}.slice",
            False,
        ),
        (f"1:memory:/kubepods/pod{OTHER}/abc\n0::/pod{UID}", False),
        (f"1:memory:/kubepods/pod{UID}/abc\n0::/kubepods/pod{UID}/abc", True),
        ("0::/user.slice", False),
    ],
)
def test_cgroup_shapes(line: str, found: bool) -> None:
    assert belongs_to(UID)(line) is found


def test_what_is_above_the_agent_is_no_pod_of_this_node() -> None:
    own = f"1:memory:/kubepods/pod{OTHER}/node/kubepods/podagent/abc\n0::/"
    assert belongs_to(UID, own)(f"1:memory:/kubepods/pod{OTHER}/node/kubepods/pod{UID}/abc\n0::/../pod{UID}")
    assert not belongs_to(OTHER, own)(f"1:memory:/kubepods/pod{OTHER}/node/kubepods/pod{UID}/abc\n0::/../pod{UID}")


def test_processes_that_share_the_agents_namespace_are_not_a_pods(tmp_path: Path) -> None:
    process = tmp_path / "17"
    (process / "ns").mkdir(parents=True)
    (process / "cgroup").write_text(f"0::/kubepods/pod{UID}/abc\n")
    (process / "ns/net").symlink_to("/proc/self/ns/net")
    (tmp_path / "18").mkdir()
    (tmp_path / "self").mkdir()
    assert find(tmp_path, UID) is None


def test_a_pods_namespace_is_that_of_its_oldest_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, began in ((17, 2000), (18, 1000), (19, 3000)):
        process = tmp_path / str(pid)
        (process / "ns").mkdir(parents=True)
        (process / "cgroup").write_text(f"0::/kubepods/pod{UID}/abc\n")
        (process / "stat").write_text(f"{pid} (a ) b) S {' '.join(['0'] * 18)} {began} 0\n")
        (process / "ns/net").touch()
    monkeypatch.setattr(PodNetns, "adopt", lambda fd: PodNetns(fd, os.fstat(fd).st_ino))
    found = find(tmp_path, UID)
    assert found is not None
    found.close()
    assert found.inode == (tmp_path / "18/ns/net").stat().st_ino
    assert [p.name for p in pod_processes(UID, tmp_path)] == ["18", "17", "19"]


def test_a_pod_cannot_pose_as_another_by_the_name_of_a_cgroup(tmp_path: Path) -> None:
    """Its process may be older than any of the other pod."""
    for pid, pod, began in ((17, f"{OTHER}/abc/pod{UID}", 1000), (18, UID, 2000)):
        process = tmp_path / str(pid)
        process.mkdir()
        (process / "cgroup").write_text(f"0::/kubepods/pod{pod}/abc\n")
        (process / "stat").write_text(f"{pid} (a) S {' '.join(['0'] * 18)} {began} 0\n")
    assert [one.name for one in _processes(tmp_path, UID)] == ["18"]
    assert [one.name for one in pod_processes(UID, tmp_path)] == ["18"]


def test_names_that_are_no_text_hide_no_pod(tmp_path: Path) -> None:
    """A process may call itself, and with a user namespace a cgroup, by any bytes."""
    for pid, pod, name in ((17, UID, b"a\xff"), (18, OTHER, b"b")):
        process = tmp_path / str(pid)
        process.mkdir()
        (process / "cgroup").write_bytes(
            b"0::/kubepods/pod%b/abc/%b\n" % (pod.encode(), b"\xff" if pod == OTHER else b"")
        )
        (process / "stat").write_bytes(b"%d (%b) S %b 1000 0\n" % (pid, name, b" ".join([b"0"] * 18)))
    assert [one.name for one in _processes(tmp_path, UID)] == ["17"]
    assert [one.name for one in pod_processes(UID, tmp_path)] == ["17"]


def test_only_network_namespaces_are_adopted() -> None:
    with pytest.raises(Exception, match="not a network namespace"):
        PodNetns.adopt(_descriptor("/proc/self/ns/mnt"))
    with pytest.raises(Exception, match="not a network namespace"):
        PodNetns.adopt(_descriptor("/dev/null"))


def _descriptor(path: str) -> int:
    return os.open(path, os.O_RDONLY)


redirections = st.builds(Redirection, st.booleans(), st.booleans(), st.sampled_from([(), ("tap0",), ("tap0", "tap1")]))


@given(redirections, redirections)
def test_rulesets_differ_exactly_when_redirections_do(a: Redirection, b: Redirection) -> None:
    assert (pod_ruleset(a).digest == pod_ruleset(b).digest) == (a == b)
    assert (pod_ruleset(a).text == pod_ruleset(b).text) == (a == b)


@given(redirections)
def test_every_ruleset_is_accepted_by_nft(wanted: Redirection) -> None:
    done = subprocess.run(
        ["nft", "-c", "-f", "-"], input=pod_ruleset(wanted).text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_probe_rules_are_accepted_by_nft() -> None:
    for addresses in ([], ["10.244.0.2"], ["10.244.0.2", "10.244.0.3", "fd00::2"]):
        subprocess.run(
            ["nft", "-c", "-f", "-"], input=host_ruleset(addresses, ipv6=bool(addresses)), text=True, check=True
        )


BODY = json.dumps({"namespace": "shop", "name": "a", "uid": "u", "ips": ["10.244.0.2"]})
REQUEST = f"POST /cmdadd HTTP/1.1\r\nHost: x\r\ncontent-length: {len(BODY)}\r\n\r\n{BODY}".encode()


@given(st.integers(0, len(REQUEST) - 1))
def test_a_request_in_pieces(cut: int) -> None:
    assert parse(REQUEST[:cut]) is None
    assert parse(REQUEST) == AddRequest("shop", "a", "u", ("10.244.0.2",))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_waited_for(data: bytes) -> None:
    with contextlib.suppress(BadRequestError):
        assert parse(data) is None


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", '{"namespace":"","name":"a","uid":"","ips":[]}', '{"namespace":1,"name":"a","uid":"","ips":[]}'],
)
def test_bad_bodies_say_what_is_expected(body: str) -> None:
    with pytest.raises(BadRequestError, match="must be"):
        parse(f"POST /cmdadd HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def settings(root: Path) -> Settings:
    environment = {
        "NODE_NAME": "n",
        "MOUNTED_CNI_NET_DIR": str(root / "net.d"),
        "MOUNTED_CNI_BIN_DIR": str(root / "opt/cni/bin"),
        "CNI_AGENT_RUN_DIR": str(root / "run"),
        "HOST_CNI_AGENT_RUN_DIR": "/run",
    }
    return from_environment(environment)


class CapturedByThePlugin:
    """The agent's members: one, and what is done to it."""

    def __init__(self, pod: Pod) -> None:
        self._member = SimpleNamespace(pod=SimpleNamespace(uid=pod.metadata.uid), netns=object(), workload=None)
        self.done: asyncio.Queue[str] = asyncio.Queue()

    def get(self, _uid: str) -> object:
        return self._member

    def of_pod(self, _namespace: str, _name: str) -> list[object]:
        return [self._member]

    def accepted(self, _member: object) -> bool:
        return False

    async def capture(self, *_: object) -> object:
        self.done.put_nowait("captured")
        return self._member

    async def release(self, _member: object) -> None:
        self.done.put_nowait("released")


@pytest.mark.parametrize(("now", "done"), [("ambient", "captured"), ("none", "released")])
async def test_a_watch_that_is_behind_lets_no_captured_pod_go(tmp_path: Path, now: str, done: str) -> None:
    api: Any = FakeApi()
    api.put("namespaces", Namespace(metadata=o.meta("", "shop")))
    pod = Pod(metadata=o.meta("shop", "a"), spec=PodSpec(node_name="n1"), status=PodStatus(pod_ip="10.244.0.2"))
    members: Any = CapturedByThePlugin(pod)
    zds: Any = SimpleNamespace(connected=0, on_verdict=lambda _: None)
    agent = Agent(settings(tmp_path), api, zds, members)
    running = asyncio.create_task(agent.run())
    try:
        async with asyncio.timeout(10):
            await agent.settled.wait()
            # The server has a label of which the watch has not told yet.
            api.objects["namespaces"]["", "shop"] = Namespace(metadata=o.meta("", "shop", **{DATAPLANE_MODE: now}))
            api.put("pods", pod)
            assert await members.done.get() == done
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_install_appends_once_and_repairs(tmp_path: Path) -> None:
    own = settings(tmp_path)
    own.cni_config_dir.mkdir()
    with pytest.raises(InstallError, match="has no network configuration yet"):
        install(own)
    path = own.cni_config_dir / "10-flannel.conflist"
    path.write_text(
        json.dumps({"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]})
    )
    (own.cni_config_dir / "20-other.conflist").write_text("{}")
    assert install(own)
    assert not install(own)
    assert [p["type"] for p in json.loads(path.read_text())["plugins"]] == ["flannel", "portmap", "tulle-cni"]
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel"}]}))
    assert install(own), "the network plugin was upgraded and wrote its file anew"
    assert json.loads(path.read_text())["cniVersion"] == "1.0.0"
    (own.cni_bin_dir / "tulle-cni").write_text("damaged")
    assert install(own)
    assert (own.cni_bin_dir / "tulle-cni").read_bytes() == program()
    path.write_text("{")
    with pytest.raises(InstallError, match="is not JSON"):
        install(own)


def test_a_single_plugin_becomes_a_list_and_stays_first(tmp_path: Path) -> None:
    own = settings(tmp_path)
    own.cni_config_dir.mkdir()
    (own.cni_config_dir / "05-net.conf").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "n", "type": "ptp", "mtu": 1400})
    )
    assert install(own)
    assert [p.name for p in own.cni_config_dir.iterdir()] == ["05-net.conflist"]
    assert json.loads((own.cni_config_dir / "05-net.conflist").read_text()) == {
        "cniVersion": "0.4.0",
        "name": "n",
        "plugins": [{"type": "ptp", "mtu": 1400}, entry(own)],
    }


@given(st.lists(st.sampled_from(["a", "b", "tulle-cni"])))
def test_chaining_is_idempotent_and_keeps_the_others_in_order(types: list[str]) -> None:
    own = {"type": "tulle-cni", "socket": "/s"}
    once = chained({"name": "n", "plugins": [{"type": t} for t in types]}, own)
    assert chained(once, own) == once
    assert [p["type"] for p in once["plugins"]] == [*(t for t in types if t != "tulle-cni"), "tulle-cni"]


def run_plugin(
    tmp_path: Path, command: str, config: object, arguments: str = "", path: str = ""
) -> tuple[int, dict[str, object]]:
    plugin = tmp_path / "tulle-cni"
    plugin.write_bytes(program())
    plugin.chmod(0o755)
    environment = {"CNI_COMMAND": command, "CNI_ARGS": arguments, "CNI_NETNS": "/proc/self/ns/net"}
    environment["PATH"] = path or f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        [plugin], input=json.dumps(config), env=environment, text=True, capture_output=True, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.244.0.2/32"}]}
SHOP = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a;K8S_POD_UID=u"
CONFIG = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "tulle-cni",
    "socket": "/nowhere/s",
    "excludeNamespaces": ["kube-system"],
}


def test_the_plugin_fails_closed_except_where_the_mesh_itself_lives(tmp_path: Path) -> None:
    code, said = run_plugin(tmp_path, "ADD", {**CONFIG, "prevResult": RESULT}, SHOP)
    assert (code, said["code"]) == (1, 11)
    assert "pod shop/a cannot start" in str(said["msg"])
    excluded = SHOP.replace("shop", "kube-system")
    assert run_plugin(tmp_path, "ADD", {**CONFIG, "prevResult": RESULT}, excluded) == (0, RESULT)
    assert run_plugin(tmp_path, "ADD", {**CONFIG, "prevResult": RESULT}) == (0, RESULT), "not a Kubernetes pod"
    assert run_plugin(tmp_path, "DEL", CONFIG, SHOP) == (0, {})


def test_the_plugins_errors_follow_the_cni_specification(tmp_path: Path) -> None:
    assert run_plugin(tmp_path, "ADD", CONFIG, SHOP)[1]["code"] == 7
    assert run_plugin(tmp_path, "ADD", [], SHOP)[1]["code"] == 7
    assert run_plugin(tmp_path, "FLY", CONFIG, SHOP)[1]["code"] == 4
    assert "1.0.0" in run_plugin(tmp_path, "VERSION", {})[1]["supportedVersions"]  # type: ignore[operator]


def test_a_node_without_python_refuses_with_a_reason(tmp_path: Path) -> None:
    text = program().decode()
    head = text[: text.index("'''\n", 20) + 4]
    assert head.startswith("#!/bin/sh\n")
    assert "exit 1" in head
    compile(text, "plugin", "exec")


def test_settings() -> None:
    with pytest.raises(SettingsError, match="NODE_NAME is not set"):
        from_environment({})
    with pytest.raises(SettingsError, match="AMBIENT_DNS_CAPTURE='maybe'"):
        from_environment({"NODE_NAME": "n", "AMBIENT_DNS_CAPTURE": "maybe"})
    with pytest.raises(SettingsError, match="READY_PORT='x'"):
        from_environment({"NODE_NAME": "n", "READY_PORT": "x"})
    got = from_environment({"NODE_NAME": "n", "EXCLUDE_NAMESPACES": " a, b ,,"})
    assert got.excluded_namespaces == {"a", "b"}
    assert replace(got, run_dir=Path("/r")).plugin_socket == Path("/r/pluginevent.sock")
    assert got.socket_on_host == "/var/run/istio-cni/pluginevent.sock"
