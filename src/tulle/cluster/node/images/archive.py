"""Images from files: OCI image layouts and `docker save` archives.

Both are tar files with a manifest, a configuration and layers; a layer is a tar file with the changes against the one
below, where a name that starts with `.wh.` removes. Layers are unpacked one by one as overlay layers, with removals
as overlayfs writes them.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tulle.cluster.node.images.model import ImageConfig

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class ArchiveError(ValueError):
    """The file is no image archive, or not whole."""


@dataclass(frozen=True)
class ArchivedImage:
    """One image of an archive; `layers` are its layer files, lowest first."""

    names: tuple[str, ...]
    digests: tuple[str, ...]
    image_id: str
    config: ImageConfig
    layers: tuple[Path, ...]


def unpack(path: Path, target: Path) -> Iterator[ArchivedImage]:
    """Unpack the archive into `target` and describe its images. Raises ArchiveError."""
    try:
        with tarfile.open(path) as archive:
            extract(archive, archive.getmembers(), target)
    except (tarfile.TarError, OSError) as error:
        raise ArchiveError(str(error)) from error
    if (target / "manifest.json").exists():
        yield from _docker(target)
    elif (target / "index.json").exists():
        yield from _oci(target)
    else:
        raise ArchiveError("it has neither manifest.json (docker save) nor index.json (OCI image layout)")


def _docker(root: Path) -> Iterator[ArchivedImage]:
    for entry in _json(root / "manifest.json"):
        config = _inside(root, entry["Config"])
        layers = tuple(_inside(root, name) for name in entry["Layers"])
        yield ArchivedImage(tuple(entry.get("RepoTags") or ()), (), _digest(config), _config(_json(config)), layers)


def _oci(root: Path) -> Iterator[ArchivedImage]:
    for entry in _json(root / "index.json")["manifests"]:
        manifest_entry = _for_this_machine(root, entry)
        manifest = _json(_blob(root, manifest_entry["digest"]))
        annotations = entry.get("annotations", {})
        name = annotations.get("io.containerd.image.name") or annotations.get("org.opencontainers.image.ref.name", "")
        config = _blob(root, manifest["config"]["digest"])
        layers = tuple(_blob(root, layer["digest"]) for layer in manifest["layers"])
        digests = (entry["digest"], manifest_entry["digest"])
        yield ArchivedImage((name,) if name else (), digests, _digest(config), _config(_json(config)), layers)


def _for_this_machine(root: Path, entry: dict[str, Any]) -> dict[str, Any]:
    if "index" not in entry.get("mediaType", "") and "list" not in entry.get("mediaType", ""):
        return entry
    wanted = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    offered = _json(_blob(root, entry["digest"]))["manifests"]
    for manifest in offered:
        if manifest.get("platform", {}).get("architecture") == wanted:
            return dict(manifest)
    raise ArchiveError(f"it has no image for {wanted}")


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ArchiveError(f"{path.name}: {error}") from error


def _inside(root: Path, name: str) -> Path:
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise ArchiveError(f"{name} is named in the manifest but not in the archive")
    return path


def _blob(root: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    path = _inside(root, f"blobs/{algorithm}/{value}")
    if algorithm != "sha256" or _digest(path) != digest:
        raise ArchiveError(f"the content of blob {digest} is not what its name says")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _config(document: dict[str, Any]) -> ImageConfig:
    config = document.get("config") or {}
    return ImageConfig(
        entrypoint=tuple(config.get("Entrypoint") or ()),
        cmd=tuple(config.get("Cmd") or ()),
        env=tuple((e.partition("=")[0], e.partition("=")[2]) for e in config.get("Env") or ()),
        working_dir=config.get("WorkingDir") or "/",
        user=config.get("User") or "",
        stop_signal=config.get("StopSignal") or "SIGTERM",
    )


def extract_layers(image: ArchivedImage, base: Path) -> tuple[str, ...]:
    """Unpack the layers below `base`; their directory names, top first. Raises ArchiveError."""
    found: list[str] = []
    for index, layer in enumerate(image.layers):
        directory = base / f"layer{index}"
        directory.mkdir()
        try:
            with tarfile.open(layer) as archive:
                _extract(archive, directory)
        except (tarfile.TarError, OSError) as error:
            raise ArchiveError(f"layer {layer.name}: {error}") from error
        found.insert(0, directory.name)
    if not found:
        raise ArchiveError("the image has no layers")
    top = base / found[0]
    for name in ("dev", "proc", "sys", "etc"):
        if not any((base / layer / name).exists() for layer in found):
            (top / name).mkdir(exist_ok=True)
    return tuple(found)


def _extract(archive: tarfile.TarFile, directory: Path) -> None:
    members = archive.getmembers()
    removals = [member for member in members if Path(member.name).name.startswith(_WHITEOUT)]
    extract(archive, [member for member in members if member not in removals and not member.isdev()], directory)
    for member in removals:
        path = Path(member.name)
        folder = (directory / path.parent).resolve()
        if not folder.is_relative_to(directory.resolve()):
            raise ArchiveError(f"{member.name} leads out of the image")
        folder.mkdir(parents=True, exist_ok=True)
        if path.name == _OPAQUE:
            os.setxattr(folder, "trusted.overlay.opaque", b"y")
        else:
            # overlayfs reads a character device 0/0 as "nothing here"
            os.mknod(folder / path.name.removeprefix(_WHITEOUT), 0o020000, 0)


def extract(archive: tarfile.TarFile, members: Sequence[tarfile.TarInfo], directory: Path) -> None:
    """Unpack members with the owners and modes they have. Raises ArchiveError for one that would land elsewhere.

    The checks are made here because the `filter` of newer `tarfile` modules is not in every Python 3.11.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root = directory.resolve()
    archive.extraction_filter = staticmethod(lambda member, _path: member)  # checked below, one by one
    for member in members:
        _refuse_outside(root, member.name)
        if member.islnk():
            _refuse_outside(root, member.linkname)
        archive.extract(member, directory, numeric_owner=True)


def _refuse_outside(root: Path, name: str) -> None:
    # Resolved at the moment of unpacking: an earlier member may be a symbolic link that leads out.
    if name.startswith("/") or not (root / name).resolve().is_relative_to(root) or ".." in Path(name).parts:
        raise ArchiveError(f"{name} leads out of the image")
