"""From a pod's spec to a container's config.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.pods import pod
from tulle.cluster.node.images.model import ImageConfig
from tulle.cluster.node.images.store import LocalImage
from tulle.cluster.node.pods import container
from tulle.cluster.node.pods.container import Machine, Place
from tulle.cluster.node.pods.env import ConfigError
from tulle.cluster.node.runtime import oci, security
from tulle.cluster.node.runtime.oci import ContainerConfig, Mount
from tulle.cluster.node.runtime.rootfs import ImageRoot

PLACE = Place("/rootfs", "/kubepods/podu1/cid", "/netns", 77, [Mount("/a", "/data/x"), Mount("/b", "/data")])


@pytest.fixture
def image(tmp_path: Path) -> LocalImage:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:101:101::/w:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    config = ImageConfig(
        entrypoint=("/entry",), cmd=("serve",), env=(("PATH", "/bin"), ("A", "image")), working_dir="/w", user="web"
    )
    return LocalImage("img", "sha256:1", config, ImageRoot((str(tmp_path),)), 1)


def machine(*controllers: str, directory: Path = Path("/nowhere")) -> Machine:
    return Machine(security.ALL_CAPABILITIES, frozenset(controllers), directory)


def build(image: LocalImage, spec: dict[str, Any], where: Machine | None = None, **pod_fields: Any) -> ContainerConfig:
    p = pod({"name": "c", **spec}, **pod_fields)
    return container.build(p, p.spec.containers[0], image, env={"A": "pod"}, place=PLACE, machine=where or machine())


@pytest.mark.parametrize(
    ("spec", "args"),
    [
        ({}, ["/entry", "serve"]),
        ({"args": ["x"]}, ["/entry", "x"]),
        ({"command": ["/c"]}, ["/c"]),
        ({"command": ["/c", "$(A)"], "args": ["$$A", "$(NO)"]}, ["/c", "pod", "$A", "$(NO)"]),
    ],
)
def test_commands(image: LocalImage, spec: dict[str, Any], args: list[str]) -> None:
    assert build(image, spec).args == args


def test_the_pods_environment_wins_over_the_images(image: LocalImage) -> None:
    assert {"PATH=/bin", "A=pod", "HOSTNAME=p", "HOME=/w"} <= set(build(image, {}).env)


@pytest.mark.parametrize(
    ("own", "of_pod", "expected"),
    [
        ({}, {}, (101, 101, ())),
        ({"runAsUser": 5}, {"runAsUser": 6}, (5, 0, ())),
        ({}, {"runAsUser": 6, "runAsGroup": 7, "fsGroup": 8, "supplementalGroups": [9, 8]}, (6, 7, (9, 8))),
    ],
)
def test_users(image: LocalImage, own: Any, of_pod: Any, expected: tuple[int, int, tuple[int, ...]]) -> None:
    user = build(image, {"securityContext": own}, securityContext=of_pod).user
    assert (user.uid, user.gid, user.groups) == expected


def test_root_is_refused_where_it_must_not_be(image: LocalImage) -> None:
    with pytest.raises(ConfigError, match="container has runAsNonRoot and runAsUser is 0"):
        build(image, {"securityContext": {"runAsNonRoot": True, "runAsUser": 0}})


def test_an_ordinary_container_can_change_nothing_around_it(image: LocalImage) -> None:
    config = build(image, {})
    document = oci.build(config)
    assert config.no_new_privileges
    assert not {"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} & set(config.capabilities)
    assert document["process"]["capabilities"]["effective"] == []  # the image's user is not root
    denied = document["linux"]["seccomp"]["syscalls"][0]["names"]
    assert {"mount", "setns", "unshare", "bpf"} <= set(denied)
    others = [rule["names"] for rule in document["linux"]["seccomp"]["syscalls"][1:]]
    assert others == [["clone"], ["clone3"]], (
        "a user namespace has all capabilities, and clone makes one as unshare does"
    )
    assert len(security.seccomp({"CAP_SYS_ADMIN"})["syscalls"]) == 1
    assert "/proc/sys" in document["linux"]["readonlyPaths"]
    spaces = {n["type"]: n.get("path", "") for n in document["linux"]["namespaces"]}
    assert spaces == {
        "mount": "",
        "network": "/netns",
        "ipc": "/proc/77/ns/ipc",
        "uts": "/proc/77/ns/uts",
        "pid": "",
        "cgroup": "",
    }


def test_a_privileged_container_may_do_what_the_node_may(image: LocalImage) -> None:
    config = build(image, {"securityContext": {"privileged": True}})
    document = oci.build(config)
    assert set(config.capabilities) == security.ALL_CAPABILITIES
    assert not config.no_new_privileges
    assert "seccomp" not in document["linux"]
    assert "maskedPaths" not in document["linux"]
    assert "cgroup" not in {n["type"] for n in document["linux"]["namespaces"]}


def test_namespaces_are_shared_on_request(image: LocalImage) -> None:
    assert build(image, {}, shareProcessNamespace=True).namespaces.pid == "/proc/77/ns/pid"
    assert build(image, {}, hostPID=True, hostIPC=True).namespaces == oci.Namespaces(
        "/netns", None, "/proc/77/ns/uts", None, None
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"add": ["NOPE"]}, "NOPE, which is no Linux capability"),
        ({"add": ["SYS_TIME"]}, "SYS_TIME: this node's root does not have it"),
    ],
)
def test_capabilities_that_cannot_be_given_are_named(image: LocalImage, wanted: Any, message: str) -> None:
    without = Machine(security.ALL_CAPABILITIES - {"CAP_SYS_TIME"}, frozenset(), Path("/nowhere"))
    with pytest.raises(ConfigError, match=message):
        build(image, {"securityContext": {"capabilities": wanted}}, without)


_names = st.lists(st.sampled_from(["NET_ADMIN", "CAP_CHOWN", "kill", "ALL", "SYS_ADMIN"]), max_size=4)


@given(_names, _names, st.booleans())
def test_added_capabilities_are_there_and_dropped_ones_are_not(add: list[str], drop: list[str], resource: bool) -> None:
    available = security.ALL_CAPABILITIES if resource else security.ALL_CAPABILITIES - {"CAP_SYS_RESOURCE"}
    given_ = set(security.capabilities(add, drop, privileged=False, available=available))
    assert given_ <= available
    for name in add:
        if name != "ALL":
            assert security.capability(name) in given_
    if "ALL" not in add:
        added = {security.capability(name) for name in add}
        for name in drop:
            assert name == "ALL" or security.capability(name) in added or security.capability(name) not in given_
    if not resource:
        assert "CAP_MKNOD" not in given_


def test_mounts_are_ordered_parents_first(image: LocalImage) -> None:
    destinations = [m["destination"] for m in oci.build(build(image, {}))["mounts"]]
    assert destinations.index("/data") < destinations.index("/data/x")


def test_limits_need_their_controller(image: LocalImage) -> None:
    spec = {"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}}
    assert build(image, spec).limits == oci.Limits()
    limits = build(image, spec, machine("memory", "cpu")).limits
    assert (limits.memory, limits.cpu_quota, limits.cpu_weight) == (64 << 20, 50_000, 20)
    resources = oci.build(build(image, spec, machine("memory", "cpu")))["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20}


def test_seccomp_profiles(image: LocalImage, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "x"}],
            }
        )
    )
    where = machine(directory=tmp_path)

    def profile(**fields: str) -> Any:
        return build(image, {"securityContext": {"seccompProfile": fields}}, where).seccomp

    assert profile(type="Unconfined") is None
    assert profile(type="RuntimeDefault") == security.seccomp(build(image, {}).capabilities)
    assert profile(type="Localhost", localhostProfile="p.json") == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
    }
    for path in ("gone.json", "../p.json"):
        with pytest.raises(ConfigError, match="localhostProfile"):
            profile(type="Localhost", localhostProfile=path)


def test_only_safe_sysctls() -> None:
    good = pod(securityContext={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]})
    assert container.sandbox(good, "/p", "/c", "/n", "p").sysctls["net.ipv4.tcp_syncookies"] == "1"
    bad = pod(securityContext={"sysctls": [{"name": "kernel.panic", "value": "1"}]})
    with pytest.raises(ConfigError, match=r"forbidden sysctl: 'kernel\.panic'"):
        container.sandbox(bad, "/p", "/c", "/n", "p")
    assert not container.sandbox(pod(hostNetwork=True), "/p", "/c", "/n", "n1").sysctls
