"""A container's environment, and the files of its volumes."""

import base64
import os
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.pods import FACTS, pod
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.pods import atomic, env, projected, subpaths
from tulle.cluster.node.pods.atomic import File
from tulle.cluster.node.pods.env import ConfigError, Service, ServicePort, Sources
from tulle.cluster.node.pods.files import hosts, resolv_conf
from tulle.cluster.node.pods.projected import Material, VolumeError
from tulle.cluster.node.pods.spec import Container, Volume
from tulle.cluster.node.pods.subpaths import SubPaths
from tulle.cluster.node.pods.volumes import Prepared, Volumes, mounts

OBJECTS = {
    ("ConfigMap", "cm"): {"data": {"a": "1", "b": "2"}, "binaryData": {"bin": base64.b64encode(b"\0").decode()}},
    ("Secret", "s"): {"data": {"pw": base64.b64encode(b"hunter2").decode()}},
}
SERVICES = (
    Service("default", "kubernetes", "10.96.0.1", (ServicePort("https", 443, "TCP"),)),
    Service("ns", "my-db", "10.96.0.7", (ServicePort("", 5432, "TCP"),)),
    Service("other", "hidden", "10.96.0.8", (ServicePort("", 80, "TCP"),)),
)


def container(**fields: Any) -> Container:
    return pod({"name": "c", **fields}).spec.containers[0]


def build(**fields: Any) -> dict[str, str]:
    p = pod({"name": "c", **fields})
    return env.build(p, p.spec.containers[0], Sources(FACTS, (), OBJECTS))


def test_values_come_from_everywhere() -> None:
    values = build(
        env=[
            {"name": "PLAIN", "value": "x"},
            {"name": "REF", "value": "$(PLAIN)-$(LATER)"},
            {"name": "LATER", "value": "y"},
            {"name": "CM", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Ki"}}},
        ],
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "gone", "optional": True}}],
    )
    assert values == {
        "P_a": "1", "P_b": "2", "PLAIN": "x", "REF": "x-$(LATER)", "LATER": "y", "CM": "1", "PW": "hunter2",
        "IP": "10.244.0.9", "APP": "x", "MEM": "1024",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"envFrom": [{"configMapRef": {"name": "gone"}}]}, 'configmap "gone" not found'),
        (
            {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k"}}}]},
            'secret "gone" not found',
        ),
        (
            {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "z"}}}]},
            "couldn't find key z in ConfigMap ns/cm",
        ),
        (
            {"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]},
            "fieldPath 'spec.x' is not supported",
        ),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**fields)


def test_services_are_told_of() -> None:
    values = dict(env.service_variables(pod(), SERVICES))
    assert values["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert values["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert values["MY_DB_PORT_5432_TCP_ADDR"] == "10.96.0.7"
    assert not any(name.startswith("HIDDEN") for name in values)
    assert not any(
        name.startswith("MY_DB") for name in dict(env.service_variables(pod(enableServiceLinks=False), SERVICES))
    )


def volume(**fields: Any) -> Volume:
    return pod(volumes=[{"name": "v", **fields}]).spec.volumes[0]


def files(spec: Volume, **pod_fields: Any) -> dict[str, File]:
    return projected.files(pod(**pod_fields), spec, Material(FACTS, OBJECTS, {("api", 600): "tok"}))


def test_config_map_files() -> None:
    assert files(volume(configMap={"name": "cm"}))["bin"] == File(b"\0")
    chosen = files(volume(configMap={"name": "cm", "items": [{"key": "a", "path": "x/y", "mode": 0o400}]}))
    assert chosen == {"x/y": File(b"1", 0o400)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"configMap": {"name": "gone"}}, 'configmap "gone" not found'),
        ({"secret": {"secretName": "gone"}}, 'secret "gone" not found'),
        ({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}, "has no key 'z'; it has a, b, bin"),
    ],
)
def test_a_missing_source_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        files(volume(**fields))


def test_optional_sources_may_be_missing() -> None:
    assert files(volume(secret={"secretName": "gone", "optional": True})) == {}


def test_projected_files_and_the_token_s_owner() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "api", "expirationSeconds": 600}},
        {"downwardAPI": {"items": [{"path": "notes", "fieldRef": {"fieldPath": "metadata.annotations"}}]}},
    ]
    spec = volume(projected={"sources": sources})
    assert files(spec)["notes"].data == b'k="a\\"b"'
    assert files(spec)["token"] == File(b"tok", 0o644)
    assert files(spec, securityContext={"runAsUser": 7})["token"] == File(b"tok", 0o600, 7)
    assert files(spec, securityContext={"fsGroup": 9})["token"] == File(b"tok", 0o640, None, 9)


def visible(directory: Path) -> dict[str, bytes]:
    found = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if not name.startswith("..") and path.is_file():
            found[name] = path.read_bytes()
    for link in directory.iterdir():
        if link.is_symlink() and link.is_dir() and not link.name.startswith(".."):
            found.update({f"{link.name}/{p.relative_to(link)}": p.read_bytes() for p in link.rglob("*") if p.is_file()})
    return found


_path = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2).map("/".join)


def _no_prefix(contents: dict[str, bytes]) -> bool:
    return not any(a != b and b.startswith(a + "/") for a in contents for b in contents)


@given(st.lists(st.dictionaries(_path, st.binary(max_size=4), max_size=4).filter(_no_prefix), min_size=1, max_size=4))
def test_a_directory_always_shows_the_last_write(
    tmp_path_factory: pytest.TempPathFactory, writes: list[dict[str, bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("volume")
    for contents in writes:
        atomic.write(directory, {path: File(data) for path, data in contents.items()})
        assert visible(directory) == contents
        assert not atomic.write(directory, {path: File(data) for path, data in contents.items()})
    assert len([p for p in directory.iterdir() if p.name.startswith("..2")]) == 1


def test_an_update_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1")})
    before = sorted(p.name for p in tmp_path.iterdir())
    for _ in range(3):
        with pytest.raises(OSError, match="a"):
            atomic.write(tmp_path, {"a": File(b"2"), "a/b": File(b"3")})
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../b", ""])
def test_a_path_cannot_leave_the_volume(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="is not a path inside a volume"):
        atomic.write(tmp_path, {path: File(b"")})


def test_sub_paths_stay_inside(tmp_path: Path) -> None:
    base = tmp_path / "v"
    (base / "real").mkdir(parents=True)
    base.chmod(0o2777)
    (base / "out").symlink_to("/etc")
    (base / "in").symlink_to("real")
    (base / "round").symlink_to("round")
    (base / "file").write_text("x")
    for path in ("new/dir", "in", "file", "."):
        found = subpaths.open_inside(base, path)
        assert os.path.samestat(os.fstat(found), (base / path).stat())
        os.close(found)
    assert (base / "new/dir").stat().st_mode & 0o7777 == 0o2777
    for path in ("out", "out/x", "../x", "/etc", "round", "file/below"):
        with pytest.raises(VolumeError, match="subPath"):
            subpaths.open_inside(base, path)


def test_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "v"
    (base / "dir" / "below").mkdir(parents=True)
    open_ = os.open

    def swapped(path: Any, flags: int, *rest: int, **options: int) -> int:
        if path == "dir":
            (base / "dir").rename(base / "was")
            (base / "dir").symlink_to("/etc")
        return open_(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(VolumeError, match="'dir' has become a link"):
        subpaths.open_inside(base, "dir/below")


class Objects:
    """The objects above, for whoever asks."""

    async def get(self, _uid: str, kind: str, _namespace: str, name: str) -> object:
        return OBJECTS.get((kind, name))


async def test_a_container_cannot_write_where_the_node_writes(tmp_path: Path) -> None:
    volumes = Volumes(NodePaths(tmp_path, "n1"), Objects())  # type: ignore[arg-type]
    own = [{"name": "v", "configMap": {"name": "cm"}}, {"name": "w", "emptyDir": {}}]
    prepared = await volumes.prepare(pod(volumes=own), FACTS)
    held = cast(SubPaths, Mock(hold=lambda base, path: base / path))
    mount = container(volumeMounts=[{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}]).volume_mounts
    assert [m.read_only for m in mounts(mount, prepared, {}, held)] == [True, False]
    assert mounts(mount, prepared, {"/v": "a"}, held)[0].read_only


async def test_what_a_pod_made_of_its_empty_dir_stays(tmp_path: Path) -> None:
    volumes = Volumes(NodePaths(tmp_path, "n1"), Objects())  # type: ignore[arg-type]
    owner = pod(volumes=[{"name": "v", "emptyDir": {}}])
    directory = (await volumes.prepare(owner, FACTS)).paths["v"]
    assert directory.stat().st_mode & 0o7777 == 0o777
    directory.chmod(0o700)
    await volumes.prepare(owner, FACTS)
    assert directory.stat().st_mode & 0o7777 == 0o700


def test_an_unknown_volume_is_named() -> None:
    mount = container(volumeMounts=[{"name": "gone", "mountPath": "/m"}]).volume_mounts
    with pytest.raises(VolumeError, match='names volume "gone"'):
        mounts(mount, Prepared({}, None), {}, SubPaths(Path("/nowhere")))


def test_resolv_conf_takes_the_pods_own_settings() -> None:
    base = "search ns.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
    config = pod(
        dnsConfig={"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}
    ).spec.dns_config
    assert (
        resolv_conf(base, "ClusterFirst", config)
        == "search ns.svc.cluster.local x\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:2\n"
    )
    assert resolv_conf(base, "None", config) == "search x\nnameserver 1.1.1.1\noptions ndots:2\n"


def test_hosts_have_the_pods_names() -> None:
    text = hosts(
        pod(subdomain="sub", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]), "10.0.0.1", "p", "cluster.local"
    )
    assert "10.0.0.1\tp.sub.ns.svc.cluster.local\tp\n" in text
    assert "1.2.3.4\ta\tb\n" in text
