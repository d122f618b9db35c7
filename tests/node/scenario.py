"""A node with a real API server, real crun and the real kubectl, inside namespaces of its own.

Run as `unshare --mount --net python -m tests.node.scenario DIRECTORY`: the machine sees no mount and no address of it. Each
check below is one thing that a person does with kubectl; the first that fails ends the process with its name.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tulle.cluster import control_plane, pki
from tulle.cluster.node import app, cleanup, linux
from tulle.cluster.node.app import Settings
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.runtime import cgroups
from tulle.cluster.node.runtime.oci import ContainerConfig
from tulle.cluster.node.runtime.records import Record, Status
from tulle.cluster.node.runtime.rootfs import ImageRoot
from tulle.cluster.node.runtime.runtime import Runtime, shim_pid
from tulle.cluster.node.seams import PodNetwork, PodRef
from tulle.kube.client import Client

PORT, NODE, IP = 16443, "n1", "127.0.0.1"
KUBECTL = Path(sys.executable).parent / "kubectl"
PATIENCE = 60.0


class LoopbackNetwork:
    """Every pod has a network namespace with a loopback interface, and nothing else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def setup_node(self) -> None:
        self._directory.mkdir(exist_ok=True)

    async def attach(self, pod: PodRef, host_network: bool) -> PodNetwork:
        if host_network:
            return PodNetwork(f"/proc/{os.getpid()}/ns/net", IP)
        path = self._directory / pod.uid
        if not path.exists():
            path.touch()
            await run("unshare", f"--net={path}", "ip", "link", "set", "lo", "up")
        return PodNetwork(str(path), "10.244.0.9")

    async def detach(self, pod: PodRef) -> None:
        path = self._directory / pod.uid
        if path.exists():
            linux.unmount(str(path))
            path.unlink()

    async def run(self) -> None:
        await asyncio.Event().wait()

    def resolv_conf(self, namespace: str, dns_policy: str) -> str:
        return f"search {namespace}.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"


async def run(*command: str, stdin: str | None = None, code: int = 0) -> str:
    """A command's output; its exit code has to be `code`."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(stdin.encode() if stdin is not None else None), PATIENCE)
    text = output.decode()
    assert process.returncode == code, f"{command}: exit code {process.returncode}, wanted {code}: {text}"
    return text


async def eventually(what: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """Ask until the answer is right; the last answer is in the failure."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = await what()
        if wanted(answer):
            return answer
        assert time.monotonic() < deadline, f"still {answer!r}"
        await asyncio.sleep(0.05)


class Cluster:
    """kubectl against the cluster, and the node that can be stopped and started."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.paths = NodePaths(state, NODE)
        self._node: asyncio.Task[None] | None = None

    async def kubectl(self, *arguments: str, stdin: str | None = None, code: int = 0) -> str:
        return await run(str(KUBECTL), f"--kubeconfig={self.state}/kubeconfig", *arguments, stdin=stdin, code=code)

    def start_node(self) -> None:
        kubeconfig = str(self.state / f"kubeconfig.node-{NODE}")
        settings = Settings(self.state, NODE, kubeconfig, IP, "10.244.0.0/24", port=10250)

        def network(_settings: Settings, paths: NodePaths, _client: Client) -> LoopbackNetwork:
            return LoopbackNetwork(paths.root / "netns")

        self._node = asyncio.create_task(app.run(settings, network))

    async def stop_node(self) -> None:
        assert self._node is not None
        self._node.cancel()
        await asyncio.wait((self._node,))
        if not self._node.cancelled():
            self._node.result()

    async def get(self, pod: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(await self.kubectl("get", "pod", pod, "-o", "json"))
        return document

    async def until(self, pod: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        found: dict[str, Any] = await eventually(lambda: self.get(pod), wanted)
        return found

    async def apply(self, *pods: dict[str, Any]) -> None:
        documents = [json.dumps({"apiVersion": "v1", "kind": "Pod", **pod}) for pod in pods]
        await self.kubectl("apply", "-f", "-", stdin="\n---\n".join(documents))


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    listed = [{"image": "busybox", "imagePullPolicy": "IfNotPresent", **c} for c in containers]
    return {"metadata": {"name": name}, "spec": {"containers": listed, "terminationGracePeriodSeconds": 1, **spec}}


def ready(document: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in document["status"].get("conditions", []))


def phase(wanted: str) -> Callable[[dict[str, Any]], bool]:
    return lambda document: document["status"].get("phase") == wanted


def container_status(document: dict[str, Any]) -> dict[str, Any]:
    statuses = document["status"].get("containerStatuses") or [{}]
    first: dict[str, Any] = statuses[0]
    return first


# The checks


async def run_exec_and_logs(c: Cluster) -> None:
    await c.kubectl(
        "run", "one", "--image=busybox", "--restart=Never", "--", "sh", "-c", "echo started; echo err >&2; sleep 1000"
    )
    await c.until("one", ready)
    assert "hi" in await c.kubectl("exec", "one", "--", "sh", "-c", "echo hi; exit 56", code=56)
    assert await c.kubectl("exec", "-i", "one", "--", "cat", stdin="through\n") == "through\n"
    assert "not found" in await c.kubectl("exec", "one", "--", "no-such-program", code=1)
    assert await c.kubectl("exec", "one", "--", "hostname") == "one\n"
    assert sorted((await c.kubectl("logs", "one")).split()) == ["err", "started"]
    assert "T" in await c.kubectl("logs", "one", "--timestamps", "--tail=1")


async def terminal(c: Cluster) -> None:
    kubectl = f"{KUBECTL} --kubeconfig={c.state}/kubeconfig"
    text = await run("script", "-qec", f"{kubectl} exec -it one -- sh -c 'tty; exit 7'", "/dev/null", code=7)
    assert "/dev/pts/0" in text


async def copy_and_forward(c: Cluster) -> None:
    file = c.state / "file"
    file.write_text("content\n")
    await c.kubectl("cp", str(file), "one:/tmp/file")
    await c.kubectl("exec", "one", "--", "sh", "-c", "cd /tmp && httpd -p 127.0.0.1:8080")
    process = await asyncio.create_subprocess_exec(
        str(KUBECTL),
        f"--kubeconfig={c.state}/kubeconfig",
        "port-forward",
        "pod/one",
        "18080:8080",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert b"Forwarding" in await asyncio.wait_for(process.stdout.readline(), PATIENCE)
    for _ in range(3):
        assert await run("curl", "-sS", "http://127.0.0.1:18080/file") == "content\n"
    process.terminate()
    await process.wait()


async def attach(c: Cluster) -> None:
    text = await c.kubectl(
        "run", "att", "-i", "--rm", "--image=busybox", "--restart=Never", "--", "cat", stdin="piped\n"
    )
    assert "piped" in text


CONFIGURED: dict[str, Any] = pod(
    "conf",
    {
        "name": "c",
        "command": [
            "sh",
            "-c",
            "cat /scratch/init; touch /scratch/ready; trap 'exit 0' TERM; while :; do sleep 0.1; done",
        ],
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "volumeMounts": [
            {"name": "work", "mountPath": "/scratch"},
            {"name": "cm", "mountPath": "/cm"},
            {"name": "s", "mountPath": "/s"},
        ],
        "readinessProbe": {"exec": {"command": ["cat", "/scratch/ready"]}, "periodSeconds": 1},
        "livenessProbe": {
            "exec": {"command": ["sh", "-c", "! test -e /scratch/die"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo hook > /scratch/hook"]}}},
    },
    initContainers=[
        {
            "name": "i",
            "image": "busybox",
            "command": ["sh", "-c", "echo from-init > /scratch/init"],
            "volumeMounts": [{"name": "work", "mountPath": "/scratch"}],
        },
        {"name": "side", "image": "busybox", "restartPolicy": "Always", "command": ["sleep", "1000"]},
    ],
    volumes=[
        {"name": "work", "emptyDir": {}},
        {"name": "cm", "configMap": {"name": "cm"}},
        {"name": "s", "secret": {"secretName": "s"}},
    ],
)


async def configuration(c: Cluster) -> None:
    await c.apply(CONFIGURED)
    reason = lambda d: container_status(d).get("state", {}).get("waiting", {}).get("reason")  # noqa: E731
    await c.until("conf", lambda d: reason(d) == "PodInitializing" or reason(d) == "ContainerCreating")
    await c.kubectl("create", "configmap", "cm", "--from-literal=a=1")
    await c.kubectl("create", "secret", "generic", "s", "--from-literal=pw=x")
    await c.until("conf", ready)
    assert (
        await c.kubectl("exec", "conf", "-c", "c", "--", "sh", "-c", "echo $A $IP $(cat /cm/a /s/pw /scratch/hook)")
        == "1 10.244.0.9 1xhook\n"
    )
    assert await c.kubectl("logs", "conf", "-c", "c") == "from-init\n"
    await c.kubectl("patch", "configmap", "cm", "-p", '{"data":{"a":"2"}}')
    await eventually(lambda: c.kubectl("exec", "conf", "-c", "c", "--", "cat", "/cm/a"), lambda text: text == "2")


async def liveness(c: Cluster) -> None:
    await c.kubectl("exec", "conf", "-c", "c", "--", "touch", "/scratch/die")
    found = await c.until("conf", lambda d: container_status(d).get("restartCount", 0) >= 1)
    assert "Liveness probe failed" in await c.kubectl("describe", "pod", "conf")
    assert found["status"]["phase"] == "Running"
    await c.kubectl("delete", "pod", "conf")


async def ends(c: Cluster) -> None:
    await c.apply(
        pod("crash", {"name": "c", "command": ["sh", "-c", "echo words > /dev/termination-log; exit 4"]}),
        pod("done", {"name": "c", "command": ["true"]}, restartPolicy="OnFailure"),
        pod("missing", {"name": "c", "command": ["no-such-program"]}, restartPolicy="Never"),
        pod("late", {"name": "c", "command": ["sleep", "1000"]}, activeDeadlineSeconds=1),
        pod("pull", {"name": "c", "image": "redis"}),
    )
    found = await c.until(
        "crash", lambda d: container_status(d).get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
    )
    last = container_status(found)["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"], last["message"]) == (4, "Error", "words\n")
    await c.until("done", phase("Succeeded"))
    found = await c.until("missing", phase("Failed"))
    assert container_status(found)["state"]["terminated"]["reason"] == "StartError"
    found = await c.until("late", phase("Failed"))
    assert found["status"]["reason"] == "DeadlineExceeded"
    await c.until(
        "pull",
        lambda d: (
            container_status(d).get("state", {}).get("waiting", {}).get("reason")
            in {"ErrImagePull", "ImagePullBackOff"}
        ),
    )
    assert "Available are" in await c.kubectl("describe", "pod", "pull")
    await c.kubectl("delete", "pod", "crash", "done", "missing", "late", "pull")


async def the_node_may_restart(c: Cluster) -> None:
    before = container_status(await c.get("one"))["containerID"]
    counter = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
    await c.apply(
        pod("count", {"name": "c", "command": ["sh", "-c", counter]}),
        pod("gone", {"name": "c", "command": ["sleep", "1000"]}),
    )
    await c.until("count", ready)
    await c.until("gone", ready)
    await c.stop_node()
    await c.kubectl("delete", "pod", "gone", "--force", "--grace-period=0")
    await asyncio.sleep(0.5)
    c.start_node()
    await eventually(lambda: run_or_fail(c, "exec", "one", "--", "true"), bool)
    assert container_status(await c.get("one"))["containerID"] == before
    assert container_status(await c.get("count"))["restartCount"] == 0
    lines = (await c.kubectl("logs", "count")).split()
    assert lines == [str(number) for number in range(1, len(lines) + 1)], "output was lost while the node was away"
    names = lambda: [s.name for s in c.paths.logs.iterdir() if "_gone_" in s.name]  # noqa: E731
    await eventually(lambda: asyncio.sleep(0, names()), lambda left: not left)


async def run_or_fail(c: Cluster, *arguments: str) -> bool:
    try:
        await c.kubectl(*arguments)
    except AssertionError:
        return False
    return True


async def a_lost_shim_costs_restarts_only(c: Cluster) -> None:
    pid = shim_pid(c.paths)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await c.until("count", lambda d: container_status(d).get("restartCount") == 1 and ready(d))


async def removal(c: Cluster) -> None:
    uid = (await c.get("count"))["metadata"]["uid"]
    await c.kubectl("delete", "pod", "count")
    assert not cgroups.directory(cgroups.pod_path(uid)).exists()
    assert not c.paths.pod(uid).exists()
    left = (await c.get("one"))["metadata"]["uid"]
    await c.stop_node()
    cleanup.end_containers(c.paths)
    assert not cgroups.processes(cgroups.pod_path(left))
    assert shim_pid(c.paths) is None


_CLONE = """
import ctypes, errno, os, platform
libc, fork = ctypes.CDLL(None, use_errno=True), {"x86_64": 56, "aarch64": 220}[platform.machine()]
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    found = libc.syscall(*map(ctypes.c_ulong, (number, *arguments)))
    if found == 0:
        os._exit(0)
    return "made" if found > 0 else errno.errorcode[ctypes.get_errno()]
new_user, child = 0x10000000, 17
print(call(fork, child, 0, 0, 0, 0), call(fork, new_user | child, 0, 0, 0, 0), call(435, 0, 0), flush=True)
"""


async def no_user_namespace_by_any_call(c: Cluster) -> None:
    """In one of its own a process has every capability, also over a new network namespace. An ordinary child may be made."""
    spec = {"name": "c", "image": "kennethreitz/httpbin", "command": ["python", "-c", _CLONE]}
    await c.apply(pod("clone", spec, restartPolicy="Never"))
    await c.until("clone", phase("Succeeded"))
    assert await c.kubectl("logs", "clone") == "made EPERM ENOSYS\n"
    await c.kubectl("delete", "pod", "clone")


async def a_sub_path_is_what_it_was_when_it_was_checked(c: Cluster) -> None:
    """Whoever else has the volume may swap the directory for a link to anywhere, before the container is made."""
    (c.state / "outside").mkdir()
    (c.state / "outside" / "secret").write_text("of the machine\n")
    await c.kubectl("create", "configmap", "sub", "--from-literal=file=text of the file")
    create = Runtime._create

    async def after_a_swap(self: Runtime, record: Record, config: ContainerConfig, image: ImageRoot | None) -> Status:
        if record.kind == "container" and record.pod_name == "sub":
            directory = c.paths.pod(record.pod_uid) / "volumes/shared/dir"
            directory.rename(directory.with_name("was"))
            directory.symlink_to(c.state / "outside")
        return await create(self, record, config, image)

    mounts = [
        {"name": "shared", "mountPath": "/sub", "subPath": "dir"},
        {"name": "cm", "mountPath": "/one", "subPath": "file"},
    ]
    command = ["sh", "-c", "ls /sub; cat /one; echo; touch /sub/mine; sleep 1000"]
    volumes = [{"name": "shared", "emptyDir": {}}, {"name": "cm", "configMap": {"name": "sub"}}]
    setattr(Runtime, "_create", after_a_swap)  # noqa: B010
    try:
        await c.apply(pod("sub", {"name": "c", "command": command, "volumeMounts": mounts}, volumes=volumes))
        uid = (await c.until("sub", ready))["metadata"]["uid"]
    finally:
        setattr(Runtime, "_create", create)  # noqa: B010
    await eventually(lambda: c.kubectl("logs", "sub"), lambda text: text == "text of the file\n")
    assert (c.paths.pod(uid) / "volumes/shared/was/mine").exists()
    await c.kubectl("delete", "pod", "sub", "--wait=true")
    assert not c.paths.pod(uid).exists()


CHECKS = (
    run_exec_and_logs,
    terminal,
    copy_and_forward,
    attach,
    configuration,
    no_user_namespace_by_any_call,
    a_sub_path_is_what_it_was_when_it_was_checked,
    liveness,
    ends,
    the_node_may_restart,
    a_lost_shim_costs_restarts_only,
    removal,
)


async def main(state: Path) -> None:
    pki.create(state, server=f"https://{IP}:{PORT}")
    pki.create_node(state, NODE, [IP], f"https://{IP}:{PORT}")
    control = asyncio.create_task(control_plane.run(state, PORT, []))
    cluster = Cluster(state)
    cluster.start_node()
    try:
        await eventually(
            lambda: run_or_fail(cluster, "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s"), bool
        )
        await eventually(lambda: run_or_fail(cluster, "get", "serviceaccount", "default"), bool)
        for check in CHECKS:
            began = time.monotonic()
            await check(cluster)
            print(f"{check.__name__}: passed ({time.monotonic() - began:.1f} s)", flush=True)
    finally:
        control.cancel()
        await asyncio.wait((control,))
        cleanup.end_containers(cluster.paths)


if __name__ == "__main__":
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    if not (cgroups.MOUNT / "cgroup.procs").exists():
        linux.mount("none", str(cgroups.MOUNT), "cgroup2")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(main(Path(sys.argv[1])))
