"""The catalogue, the store on disk, and archives of real images."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tulle.cluster.node.images import archive, catalogue, names
from tulle.cluster.node.images.model import Image, ImageConfig, ImageUnavailableError, docker_hub
from tulle.cluster.node.images.store import ImageStore
from tulle.cluster.node.runtime.rootfs import Part


def test_every_name_is_complete_and_means_one_image() -> None:
    listed = [repository for image in catalogue.IMAGES for repository in image.repositories]
    assert len(listed) == len(set(listed))
    for repository in listed:
        assert names.parse(repository).repository == repository


@pytest.mark.parametrize(
    "text",
    [
        "nginx",
        "nginx:1.27",
        "curlimages/curl",
        "docker.io/istio/examples-helloworld-v1:1.0",
        "busybox:1.36",
        "tulle/tulle:0.1.0",
    ],
)
def test_common_names_are_in_the_catalogue(text: str) -> None:
    assert names.parse(text).repository in catalogue.by_repository()


def recipe(root: Path) -> Sequence[Part]:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    extra = root.parent / "extra"
    extra.mkdir()
    return (Part("/usr", "/usr", (str(extra),), writable=True),)


def image(made_from: tuple[str, ...] = (), version: int = 1) -> Image:
    return Image(docker_hub("library/x"), "x", ImageConfig(cmd=("a",)), recipe, version, made_from)


def test_a_root_is_made_once(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, [image()])
    reference = names.parse("x")
    assert store.find(reference) is None
    made = store.pull(reference)
    assert store.find(reference) == made == store.pull(names.parse("x:other"))
    assert made.etc("passwd").startswith("root")
    assert made.etc("shadow") == ""
    (part,) = made.root.parts
    assert Path(part.layers[0]).is_dir()
    assert not list((tmp_path / "making").iterdir())


def test_a_root_is_made_again_when_its_sources_change(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1")
    store = ImageStore(tmp_path / "images", [image((str(source),))])
    first = store.pull(names.parse("x"))
    source.write_text("22")
    assert store.find(names.parse("x")) is None
    assert store.pull(names.parse("x")).image_id != first.image_id


def test_what_is_not_there_is_explained(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, [image()])
    with pytest.raises(
        ImageUnavailableError, match=r"redis:7 is not in the catalogue .* Available are: x\. .*docker save"
    ):
        store.pull(names.parse("redis:7"))


def test_a_recipe_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(root: Path) -> Sequence[Part]:
        raise OSError("no space")

    store = ImageStore(tmp_path, [Image(docker_hub("library/x"), "x", ImageConfig(), broken)])
    with pytest.raises(ImageUnavailableError, match=r"making the root of docker\.io/library/x failed: no space"):
        store.pull(names.parse("x"))
    assert not list((tmp_path / "making").iterdir())


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.mode = len(data), 12, 0o4755
            made.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


CONFIG = json.dumps({"config": {"Entrypoint": ["/app"], "Env": ["A=b=c"], "User": "7", "WorkingDir": "/w"}}).encode()
LOWER = tar({"app": b"1", "gone": b"x", "dir/old": b"o"})
UPPER = tar({".wh.gone": b"", "dir/.wh..wh..opq": b"", "dir/new": b"n"})


def docker_archive() -> bytes:
    manifest = [{"Config": "c.json", "RepoTags": ["redis:7"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    return tar(
        {"manifest.json": json.dumps(manifest).encode(), "c.json": CONFIG, "1/layer.tar": LOWER, "2/layer.tar": UPPER}
    )


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def oci_archive(layer: bytes = LOWER) -> tuple[bytes, str]:
    manifest = json.dumps({"config": {"digest": digest(CONFIG)}, "layers": [{"digest": digest(LOWER)}]}).encode()
    entry = {"digest": digest(manifest), "annotations": {"io.containerd.image.name": "docker.io/library/redis:7"}}
    blobs = {f"blobs/sha256/{digest(b).removeprefix('sha256:')}": b for b in (CONFIG, manifest)}
    blobs[f"blobs/sha256/{digest(LOWER).removeprefix('sha256:')}"] = layer
    return tar({"index.json": json.dumps({"manifests": [entry]}).encode(), **blobs}), digest(manifest)


def test_docker_archives_become_images(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, [])
    store.import_directory.mkdir()
    (store.import_directory / "redis.tar").write_bytes(docker_archive())
    made = store.pull(names.parse("redis:7"))
    assert made.config == ImageConfig(entrypoint=("/app",), env=(("A", "b=c"),), user="7", working_dir="/w")
    upper, lower = map(Path, made.root.layers)
    assert ((lower / "app").stat().st_uid, (lower / "app").stat().st_mode & 0o7777) == (12, 0o4755)
    assert (upper / "gone").is_char_device()
    assert os.getxattr(upper / "dir", "trusted.overlay.opaque") == b"y"
    with pytest.raises(ImageUnavailableError):
        store.pull(names.parse("redis:8"))


def test_oci_layouts_are_found_by_name_and_digest(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, [])
    store.import_directory.mkdir()
    data, manifest = oci_archive()
    (store.import_directory / "redis.tar").write_bytes(data)
    assert store.pull(names.parse("redis:7")) == store.pull(names.parse(f"redis@{manifest}"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a tar", "cannot be imported"),
        (tar({"x": b""}), "neither manifest.json"),
        (tar({"manifest.json": b'[{"Config": "gone", "Layers": []}]'}), "not in the archive"),
        (oci_archive(b"tampered")[0], "is not what its name says"),
    ],
)
def test_broken_archives_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    store = ImageStore(tmp_path, [])
    store.import_directory.mkdir()
    (store.import_directory / "x.tar").write_bytes(data)
    with pytest.raises(ImageUnavailableError, match=message):
        store.pull(names.parse("redis:7"))


def test_a_layer_cannot_leave_its_directory(tmp_path: Path) -> None:
    for name in ("../out", "a/../../.wh.out"):
        layer = tmp_path / "layer.tar"
        layer.write_bytes(tar({name: b""}))
        base = tmp_path / str(len(name))
        base.mkdir()
        broken = archive.ArchivedImage((), (), "sha256:1", ImageConfig(), (layer,))
        with pytest.raises(archive.ArchiveError):
            archive.extract_layers(broken, base)
    assert not (tmp_path / "out").exists()
