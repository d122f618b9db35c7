"""Putting the CNI plugin on the node: the program, and an entry for it at the end of the node's network
configuration.

The runtime uses the first configuration file in the order of names; the entry goes there. Other network plugins
rewrite that file when they are upgraded, so it is looked at again and again for as long as the agent runs. Nothing is
taken away when the agent stops: pods that start meanwhile must wait for it rather than start uncaptured.
"""

import asyncio
import importlib.resources
import json
import os
from pathlib import Path
from typing import Any

import structlog

from tulle.cni.settings import PLUGIN_NAME, Settings

CHECK_SECONDS = 2.0
CONFIG_SUFFIXES = (".conf", ".conflist", ".json")

# The node's Python is found at run time; a node without one refuses every pod with this reason instead of letting them pass.
LAUNCHER = """#!/bin/sh
''':'
for python in python3 /usr/bin/python3 /usr/local/bin/python3 python3.14 python3.13 python3.12 python3.11; do
  if command -v "$python" >/dev/null 2>&1; then exec "$python" -I -S "$0" "$@"; fi
done
echo '{"cniVersion": "1.0.0", "code": 5, "msg": "tulle-cni needs Python 3.9 or later on the node, and found none"}'
exit 1
'''
"""

log = structlog.get_logger("tulle.cni")


class InstallError(Exception):
    """The plugin cannot be installed yet; the message says what is missing or unreadable."""


def program() -> bytes:
    """The plugin's file: a shell line that finds Python, then ``plugin.py`` itself."""
    source = importlib.resources.files("tulle.cni").joinpath("plugin.py").read_text()
    return (LAUNCHER + source).encode()


def entry(settings: Settings) -> dict[str, Any]:
    """The plugin's own configuration within the list."""
    return {
        "type": PLUGIN_NAME,
        "socket": settings.socket_on_host,
        "excludeNamespaces": sorted(settings.excluded_namespaces),
        "timeoutSeconds": 2 * settings.handover_seconds + 5,
    }


def chained(document: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The network configuration with our entry last, once, and all else as it was. A single plugin becomes a list."""
    if "plugins" in document:
        outer, plugins = document, list(document["plugins"])
    else:
        inner = {k: v for k, v in document.items() if k not in ("name", "cniVersion")}
        outer, plugins = {k: document[k] for k in ("cniVersion", "name") if k in document}, [inner]
    others = [p for p in plugins if p.get("type") != own["type"]]
    return {**outer, "plugins": [*others, own]}


def install(settings: Settings) -> bool:
    """Make program and configuration what they should be; whether anything had to change. Raises InstallError."""
    try:
        changed = _write(settings.cni_bin_dir / PLUGIN_NAME, program(), 0o755)
        path, document = _main_config(settings.cni_config_dir)
        target = path.with_suffix(".conflist")
        text = json.dumps(chained(document, entry(settings)), indent=2) + "\n"
        if target != path or json.loads(text) != document:
            changed = _write(target, text.encode(), 0o644) or changed
        if target != path:
            path.unlink()  # it would come first in the order of names
    except OSError as error:
        raise InstallError(f"the CNI plugin cannot be installed: {error}") from error
    return changed


async def keep_installed(settings: Settings, installed: asyncio.Event) -> None:
    """Install, and look again every two seconds, forever; ``installed`` tells whether the last look was good."""
    complaint = ""
    while True:
        try:
            if install(settings):
                log.info("CNI plugin installed", directory=str(settings.cni_config_dir))
            complaint = ""
            installed.set()
        except InstallError as error:
            installed.clear()
            if str(error) != complaint:
                complaint = str(error)
                log.warning("CNI plugin not installed, trying again", error=complaint)
        await asyncio.sleep(CHECK_SECONDS)


def _main_config(directory: Path) -> tuple[Path, dict[str, Any]]:
    names = sorted(p for p in directory.iterdir() if p.suffix in CONFIG_SUFFIXES)
    if not names:
        raise InstallError(
            f"{directory} has no network configuration yet: the node's own network plugin must write one"
        )
    try:
        document = json.loads(names[0].read_text())
    except ValueError as error:
        raise InstallError(f"{names[0]} is not JSON: {error}") from error
    if not isinstance(document, dict) or ("plugins" not in document and "type" not in document):
        raise InstallError(f'{names[0]} is not a CNI network configuration: it has neither "plugins" nor "type"')
    return names[0], document


def _write(path: Path, content: bytes, mode: int) -> bool:
    """Replace the file atomically if it differs: the runtime may read it, or run it, at any moment."""
    if path.exists() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(content)
    scratch.chmod(mode)
    os.replace(scratch, path)
    return True
