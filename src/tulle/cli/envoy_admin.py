"""A waypoint's Envoy is asked: its `/config_dump`, its log levels, wherever its admin interface listens.

Stock proxies have it on port 15000 of the pod's loopback address. The waypoints of this mesh have it on a unix socket that only their own
user can open, so that no request which reaches the proxy can ever be sent to it; a process beside it asks then.
"""

from __future__ import annotations

from tulle.cli.podexec import run
from tulle.cli.portforward import PodPort, PortForwardError, http_request
from tulle.kube.client import Client
from tulle.kube.objects import Pod

CONFIG_DUMP = "/config_dump?include_eds"
"""The whole configuration, with the endpoints in it."""
_READER = """
import http.client, os, socket, sys
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.path.join(os.environ.get("RUN_DIR", "/etc/istio/proxy"), "admin.sock"))
connection = Connection("localhost")
connection.request(sys.argv[2], sys.argv[1])
sys.stdout.buffer.write(connection.getresponse().read())
"""


async def request(client: Client, pod: Pod, port: int, path: str, method: str = "GET") -> bytes:
    """What the admin interface answers. Raises CommandError."""
    namespace, name = pod.metadata.namespace, pod.metadata.name
    try:
        return await http_request(client, PodPort(namespace, name, port), path, method)
    except PortForwardError:
        container = pod.spec.containers[0].name
        return await run(client, namespace, name, container, ("python", "-c", _READER, path, method))
