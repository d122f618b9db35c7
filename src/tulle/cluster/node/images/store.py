"""The images that are on this machine: roots made once, kept in `<state>/images`, shared by all nodes.

"Pulling" an image of the catalogue is making its root; it is made in a directory of its own and renamed into place,
so a crash in between leaves nothing half-made, and a lock lets one process at a time make one root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tulle.cluster.node.images import archive, catalogue, names
from tulle.cluster.node.images.model import Image, ImageConfig, ImageUnavailableError
from tulle.cluster.node.images.names import Reference
from tulle.cluster.node.runtime.rootfs import ImageRoot, Part

DESCRIPTION_FILE = "image.json"


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored beside a root."""

    name: str
    image_id: str
    config: ImageConfig
    layers: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class LocalImage:
    """An image whose root is on this machine; `layers` are absolute directories, top first."""

    name: str
    image_id: str
    config: ImageConfig
    root: ImageRoot
    size: int

    def etc(self, file: str) -> str:
        """The text of /etc/`file` in the image, or nothing."""
        for layer in self.root.layers:
            path = Path(layer) / "etc" / file
            if path.is_file() and not path.is_symlink():
                return path.read_text(errors="replace")
        return ""


class ImageStore:
    """Finds and makes images. All methods block for as long as files take; the kubelet calls them in a thread."""

    def __init__(self, directory: Path, images: Sequence[Image] = catalogue.IMAGES) -> None:
        self._directory = directory
        self._catalogue = catalogue.by_repository(images)

    @property
    def import_directory(self) -> Path:
        return self._directory / "import"

    def find(self, reference: Reference) -> LocalImage | None:
        """The image if its root is already made and still fits the machine."""
        imported = self._imported(reference)
        if imported is not None:
            return self._load(imported)
        image = self._catalogue.get(reference.repository)
        return self._load(self._key(image)) if image is not None else None

    def pull(self, reference: Reference) -> LocalImage:
        """Make the image's root, unless it is there. Raises ImageUnavailableError, saying what is available instead."""
        self._import_archives()
        local = self.find(reference)
        if local is not None:
            return local
        image = self._catalogue.get(reference.repository)
        if image is None:
            raise ImageUnavailableError(self._explain(reference))
        with self._locked():
            return self._load(self._key(image)) or self._make(image)

    def _explain(self, reference: Reference) -> str:
        shown = sorted(
            {image.name.removeprefix("docker.io/").removeprefix("library/") for image in self._catalogue.values()}
        )
        return (
            f"image {reference} is not in the catalogue and no registry is used. Available are: {', '.join(shown)}. "
            f"For any other image put an archive of it (docker save {reference} -o NAME.tar) into {self.import_directory}"
        )

    @staticmethod
    def _key(image: Image) -> str:
        """Changes when the recipe changes or the machine's files that it is made from do."""
        digest = hashlib.sha256(msgspec.json.encode((image.name, image.version, image.config)))
        for path in image.made_from:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
        return digest.hexdigest()

    def _root(self, key: str) -> Path:
        return self._directory / "roots" / key

    def _load(self, key: str) -> LocalImage | None:
        try:
            text = (self._root(key) / DESCRIPTION_FILE).read_bytes()
        except FileNotFoundError:
            return None
        return self._local(key, msgspec.json.decode(text, type=Description))

    def _local(self, key: str, description: Description) -> LocalImage:
        base = self._root(key)
        # paths in the description are relative to the root's directory, which was renamed after it was made
        parts = tuple(_absolute(part, base) for part in description.parts)
        layers = tuple(str(base / layer) for layer in description.layers)
        return LocalImage(
            description.name, description.image_id, description.config, ImageRoot(layers, parts), description.size
        )

    def _make(self, image: Image) -> LocalImage:
        key = self._key(image)
        base = self._fresh(key)
        root = base / "root"
        root.mkdir()
        try:
            parts = image.recipe(root)
        except (ImageUnavailableError, OSError) as error:
            shutil.rmtree(base, ignore_errors=True)
            if isinstance(error, OSError):
                raise ImageUnavailableError(f"making the root of {image.name} failed: {error}") from error
            raise
        relative = tuple(_relative(part, base) for part in parts)
        description = Description(
            name=image.name,
            image_id=f"sha256:{key}",
            config=image.config,
            layers=("root",),
            parts=relative,
            size=_size(base),
        )
        return self._publish(key, base, description)

    def _fresh(self, key: str) -> Path:
        base = self._directory / "making" / f"{key[:16]}-{os.getpid()}-{time.time_ns()}"
        base.mkdir(parents=True)
        return base

    def _publish(self, key: str, base: Path, description: Description) -> LocalImage:
        (base / DESCRIPTION_FILE).write_bytes(msgspec.json.encode(description))
        target = self._root(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(base, target)
        return self._local(key, description)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # Imported archives

    def _tags(self) -> Mapping[str, str]:
        try:
            return msgspec.json.decode((self._directory / "imported.json").read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}

    def _imported(self, reference: Reference) -> str | None:
        tags = self._tags()
        return tags.get(f"{reference.repository}@{reference.digest}") if reference.digest else tags.get(str(reference))

    def _import_archives(self) -> None:
        """Unpack every archive in the import directory that is new. Raises ImageUnavailableError naming one that is
        broken.
        """
        if not self.import_directory.is_dir():
            return
        with self._locked():
            tags = dict(self._tags())
            for path in sorted(self.import_directory.glob("*.tar")):
                status = path.stat()
                mark = f"file:{path.name}:{status.st_size}:{status.st_mtime_ns}"
                if mark not in tags:
                    tags[mark] = "done"
                    for name, key in self._import(path):
                        tags[name] = key
            fresh = self._directory / "imported.json.new"
            fresh.write_bytes(msgspec.json.encode(tags))
            os.replace(fresh, self._directory / "imported.json")

    def _import(self, path: Path) -> list[tuple[str, str]]:
        base = self._fresh("import")
        published: list[tuple[str, str]] = []
        try:
            for image in archive.unpack(path, base / "blobs"):
                key = image.image_id.removeprefix("sha256:")
                if self._load(key) is None:
                    here = self._fresh(key)
                    layers = archive.extract_layers(image, here)
                    name = str(names.parse(image.names[0])) if image.names else image.image_id
                    description = Description(
                        name=name, image_id=image.image_id, config=image.config, layers=layers, size=_size(here)
                    )
                    self._publish(key, here, description)
                published += [(str(names.parse(name)), key) for name in image.names]
                published += [(f"{names.parse(n).repository}@{d}", key) for n in image.names for d in image.digests]
        except (archive.ArchiveError, names.ImageNameError) as error:
            raise ImageUnavailableError(f"the archive {path} cannot be imported: {error}") from error
        finally:
            shutil.rmtree(base, ignore_errors=True)
        return published


def _relative(part: Part, base: Path) -> Part:
    return Part(part.source, part.target, tuple(os.path.relpath(layer, base) for layer in part.layers), part.writable)


def _absolute(part: Part, base: Path) -> Part:
    return Part(part.source, part.target, tuple(str(base / layer) for layer in part.layers), part.writable)


def _size(directory: Path) -> int:
    return sum((Path(folder) / name).lstat().st_size for folder, _, files in os.walk(directory) for name in files)
