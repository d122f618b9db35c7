"""The sample servers: Istio's helloworld (two versions) and httpbin, as servers of this package."""

from __future__ import annotations

from tulle.cluster.node.images import debian, python
from tulle.cluster.node.images.model import Image, ImageConfig, docker_hub

_SERVERS = "tulle.cluster.node.images.servers"

_ISTIO_REGISTRIES = (
    "docker.io/istio",
    "registry.istio.io/release",
    "registry.istio.io/testing",
    "gcr.io/istio-release",
    "gcr.io/istio-testing",
)


def _server(module: str, *arguments: str) -> tuple[str, ...]:
    # without site-packages the process is smaller and starts sooner: these servers use the standard library only
    return ("python", "-S", "-m", f"{_SERVERS}.{module}", *arguments)


def _helloworld(version: str) -> Image:
    return Image(
        repositories=tuple(f"{registry}/examples-helloworld-{version}" for registry in _ISTIO_REGISTRIES),
        about=f"Istio's helloworld sample, {version}: GET /hello on port 5000",
        config=ImageConfig(cmd=_server("helloworld"), env=(*python.environment(), ("SERVICE_VERSION", version))),
        recipe=python.root,
        made_from=(debian.STATUS, *python.origins()),
    )


HELLOWORLD_V1 = _helloworld("v1")
HELLOWORLD_V2 = _helloworld("v2")

HTTPBIN = Image(
    repositories=docker_hub("kennethreitz/httpbin", "docker.io/kong/httpbin"),
    about="httpbin on port 80: /get, /headers, /status/N, /anything, /post, /delay/N and others",
    config=ImageConfig(cmd=_server("httpbin", "--port", "80"), env=python.environment()),
    recipe=python.root,
    made_from=(debian.STATUS, *python.origins()),
)

GO_HTTPBIN = Image(
    repositories=docker_hub("mccutchen/go-httpbin", "ghcr.io/mccutchen/go-httpbin"),
    about="httpbin on port 8080",
    config=ImageConfig(cmd=_server("httpbin", "--port", "8080"), env=python.environment()),
    recipe=python.root,
    made_from=(debian.STATUS, *python.origins()),
)
