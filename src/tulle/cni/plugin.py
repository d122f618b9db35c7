"""The CNI plugin: a program that the container runtime starts for every new pod, after the pod's network was made.

It asks the node agent whether the pod belongs to the mesh and waits until it is captured, so that no process of the
pod ever runs uncaptured. It must start fast and run with whatever Python the node has, so it uses the standard library
alone, and little of it. When the agent cannot be asked, the pod does not start (except in the excluded namespaces,
where the mesh itself lives): fail closed.
"""

import json
import os
import socket
import struct
import sys

SUPPORTED = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
BAD_ENVIRONMENT, BAD_CONFIG, TRY_AGAIN = 4, 7, 11


class PluginError(Exception):
    """Ends the plugin with a CNI error; ``code`` as the CNI specification numbers them."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> int:
    """Run one CNI command; the exit code."""
    version = "1.0.0"
    try:
        command = os.environ.get("CNI_COMMAND", "")
        if command == "VERSION":
            print(json.dumps({"cniVersion": version, "supportedVersions": SUPPORTED}))
        elif command == "ADD":
            config = _config()
            version = str(config.get("cniVersion", version))
            print(json.dumps(add(config, _pod_arguments(os.environ.get("CNI_ARGS", "")))))
        elif command not in ("DEL", "CHECK", "STATUS", "GC"):
            raise PluginError(BAD_ENVIRONMENT, f"CNI_COMMAND={command!r} is not a CNI command")
    except PluginError as error:
        print(json.dumps({"cniVersion": version, "code": error.code, "msg": str(error)}))
        return 1
    return 0


def add(config: dict, arguments: dict) -> dict:  # type: ignore[type-arg]
    """Let the agent capture the pod if it must be; the result of the plugins before, unchanged. Raises PluginError."""
    previous = config.get("prevResult")
    if not isinstance(previous, dict):
        raise PluginError(BAD_CONFIG, "tulle-cni has no prevResult: it must come after another plugin in a conflist")
    namespace, name = arguments.get("K8S_POD_NAMESPACE", ""), arguments.get("K8S_POD_NAME", "")
    if not namespace or not name or namespace in config.get("excludeNamespaces", []):
        return previous
    request = {
        "namespace": namespace,
        "name": name,
        "uid": arguments.get("K8S_POD_UID", ""),
        "ips": [str(entry.get("address", "")).split("/")[0] for entry in previous.get("ips", [])],
    }
    pod = f"pod {namespace}/{name}"
    status, answer = ask(str(config.get("socket", "")), request, float(config.get("timeoutSeconds", 25)), pod)
    if status != 200:
        raise PluginError(TRY_AGAIN, "{} is not captured by the mesh: {}".format(pod, answer.get("error", answer)))
    return previous


def ask(path: str, request: dict, timeout: float, pod: str) -> tuple:  # type: ignore[type-arg]
    """POST the request, with the pod's network namespace as a descriptor; HTTP status and answer. Raises
    PluginError.
    """
    body = json.dumps(request).encode()
    head = f"POST /cmdadd HTTP/1.1\r\nHost: agent\r\nContent-Length: {len(body)}\r\n\r\n"
    here = os.open(".", os.O_RDONLY)
    try:
        netns = os.open(os.environ.get("CNI_NETNS", ""), os.O_RDONLY)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(timeout)
        located = locate(path)
        os.chdir(os.path.dirname(located))  # a socket's path may be longer than a socket address
        link.connect(os.path.basename(located))
        os.fchdir(here)
        link.sendmsg([head.encode() + body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", netns))])
        received = b""
        while chunk := link.recv(65536):
            received += chunk
    except OSError as error:
        raise PluginError(
            TRY_AGAIN,
            f"{pod} cannot start: the mesh's node agent (DaemonSet istio-cni-node) does not answer at {path}: {error}",
        ) from error
    header, _, content = received.partition(b"\r\n\r\n")
    try:
        return int(header.split()[1]), json.loads(content)
    except (IndexError, ValueError) as error:
        raise PluginError(TRY_AGAIN, f"{pod}: the node agent's answer is unreadable") from error


def locate(path: str) -> str:
    """The socket, seen from where this program is installed: ``<root>/opt/cni/bin`` means that paths are under
    ``<root>``.
    """
    root, found, _ = os.path.realpath(sys.argv[0]).rpartition("/opt/cni/bin/")
    below = root + path
    return below if found and os.path.exists(below) else path


def _config() -> dict:  # type: ignore[type-arg]
    try:
        config = json.load(sys.stdin)
    except ValueError as error:
        raise PluginError(BAD_CONFIG, f"the configuration on standard input is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise PluginError(BAD_CONFIG, "the configuration on standard input is not a JSON object")
    return config


def _pod_arguments(text: str) -> dict:  # type: ignore[type-arg]
    return dict(part.split("=", 1) for part in text.split(";") if "=" in part)


if __name__ == "__main__":
    sys.exit(main())
