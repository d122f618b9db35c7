"""Chained CNI plugins: whoever is installed on the node gets a word on every new pod before its first process
starts.

The protocol is CNI 1.0's: a plugin is a program, told by environment variables and by JSON on its standard input, that
answers JSON. The node's own wiring stands for the first plugin of the chain; its result is handed on as
``prevResult``.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tulle.cluster.node.network.config import POD_LINK
from tulle.cluster.node.seams import NetworkError, PodRef

CNI_VERSION = "1.0.0"
BUILT_IN = "tulle-node"
MAIN_CONFLIST = "10-tulle.conflist"
PLUGIN_TIMEOUT = 30.0


@dataclass(frozen=True)
class Chain:
    """Where configuration and programs of the plugins are."""

    config_dir: Path
    bin_dir: Path

    def install_main(self) -> None:
        """Write the node's own network configuration, to which others chain themselves. One that is there stays."""
        self.bin_dir.mkdir(parents=True, exist_ok=True)
        self.config_dir.mkdir(parents=True, exist_ok=True)
        path = self.config_dir / MAIN_CONFLIST
        if not path.exists():
            main = {"cniVersion": CNI_VERSION, "name": "tulle", "plugins": [{"type": BUILT_IN}]}
            path.write_text(json.dumps(main, indent=2) + "\n")

    def plugins(self) -> list[dict[str, Any]]:
        """Every chained plugin's configuration, in order of file name and list. Raises NetworkError for unreadable
        files.
        """
        found: list[dict[str, Any]] = []
        for path in sorted(self.config_dir.glob("*.conflist")):
            try:
                document = json.loads(path.read_text())
                name, plugins = str(document["name"]), list(document["plugins"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise NetworkError(
                    f"CNI configuration {path} is not a network configuration list ({error!r}): "
                    'it needs "name" and "plugins"; repair or remove the file'
                ) from error
            for plugin in plugins:
                if plugin.get("type") != BUILT_IN:
                    found.append({"cniVersion": document.get("cniVersion", CNI_VERSION), "name": name, **plugin})
        return found

    async def add(self, pod: PodRef, netns: Path, result: dict[str, Any]) -> None:
        """Run ADD through the chain. Raises NetworkError naming the plugin that refused and its message."""
        for plugin in self.plugins():
            answer = await self._execute("ADD", plugin, pod, netns, result)
            result = answer or result

    async def delete(self, pod: PodRef, netns: Path, result: dict[str, Any]) -> None:
        """Run DEL backwards through the chain. CNI asks plugins to succeed here; a refusal must not keep the pod
        alive.
        """
        for plugin in reversed(self.plugins()):
            with contextlib.suppress(NetworkError):
                await self._execute("DEL", plugin, pod, netns, result)

    async def _execute(
        self, command: str, plugin: Mapping[str, Any], pod: PodRef, netns: Path, result: dict[str, Any]
    ) -> dict[str, Any]:
        kind = str(plugin.get("type", ""))
        program = self.bin_dir / kind
        if not kind or "/" in kind or not os.access(program, os.X_OK):
            raise NetworkError(
                f"CNI plugin {kind!r} is configured in {self.config_dir} but {program} cannot be executed"
            )
        document = {**plugin, "prevResult": result}
        try:
            process = await asyncio.create_subprocess_exec(
                str(program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment(command, pod, netns),
            )
        except OSError as error:
            raise NetworkError(f"CNI plugin {program} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(PLUGIN_TIMEOUT):
                out, err = await process.communicate(json.dumps(document).encode())
        except TimeoutError as error:
            raise NetworkError(
                f"CNI plugin {kind}: no answer to {command} for {pod} in {PLUGIN_TIMEOUT:.0f} s"
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise NetworkError(f"CNI plugin {kind} failed {command} for pod {pod}: {_complaint(out, err)}")
        return _parsed(out)

    def _environment(self, command: str, pod: PodRef, netns: Path) -> dict[str, str]:
        interpreter = str(Path(sys.executable).parent)
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.uid,
            "CNI_NETNS": str(netns),
            "CNI_IFNAME": POD_LINK,
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name};"
            f"K8S_POD_INFRA_CONTAINER_ID={pod.uid};K8S_POD_UID={pod.uid}",
            "CNI_PATH": str(self.bin_dir),
            "PATH": f"{interpreter}:{os.environ.get('PATH', os.defpath)}",
        }


def _parsed(out: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(out or b"{}")
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _complaint(out: bytes, err: bytes) -> str:
    """What a failing plugin said: the CNI error's message, else whatever it printed."""
    said = (
        str(_parsed(out).get("msg", "")),
        err.decode(errors="replace").strip(),
        out.decode(errors="replace").strip(),
    )
    return next((text for text in said if text), "it gave no reason")


def first_result(ip: str, mac: str, gateway: str, link: str, netns: Path) -> dict[str, Any]:
    """The node's own wiring as a CNI result, the ``prevResult`` of the first chained plugin."""
    return {
        "cniVersion": CNI_VERSION,
        "interfaces": [{"name": link}, {"name": POD_LINK, "mac": mac, "sandbox": str(netns)}],
        "ips": [{"address": f"{ip}/32", "gateway": gateway, "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": gateway}],
    }
