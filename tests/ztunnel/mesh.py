"""The mesh that the tests of the data path start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tulle.xds.proto import workload_pb2

if TYPE_CHECKING:
    from .node import Node

SERVICE = "hello/helloworld.hello.svc.cluster.local"
VIP = "10.96.0.5"
PORTS = {5000: 5000, 2500: 2500, 2600: 2600}
STRICT = "istio-system/istio_converted_static_strict"


def hello(node: Node, **more: Any) -> None:
    """The backend of the service; keywords change its record."""
    pod = node.lab.pods["hello-1"]
    more.setdefault("services", {SERVICE: PORTS})
    node.istiod.workload("hello-1", "hello", pod.ip, **more)


def helloworld(node: Node, **more: Any) -> None:
    """The service; keywords change its record."""
    node.istiod.service("hello", "helloworld", VIP, PORTS, **more)


def http(node: Node, *, explain: bool) -> None:
    """The service with an HTTP port, and refusals explained or not."""
    helloworld(node, app_protocol=workload_pb2.HTTP11, explain=explain)


def describe(node: Node) -> None:
    """Workloads of every captured pod, and one service in front of hello-1."""
    for name in ("hello-2", "test-1", "web-1"):
        node.istiod.workload(name, name.partition("-")[0], node.lab.pods[name].ip)
    if "test-2" in node.lab.pods:
        node.istiod.workload("test-2", "test", node.lab.pods["test-2"].ip, service_account="other")
    hello(node)
    helloworld(node)
