"""`tulle/tulle`: the mesh's own parts (istiod, cni, ztunnel, waypoint), on this Python and this source.

Envoy comes with the Python environment, `nft` and `ip` with the machine's /usr. The command is chosen by the manifest
(`python -m tulle.ztunnel`).
"""

from __future__ import annotations

from tulle.cluster import heap
from tulle.cluster.node.images import debian, python
from tulle.cluster.node.images.model import Image, ImageConfig, docker_hub

IMAGE = Image(
    repositories=docker_hub("tulle/tulle", "ghcr.io/tulle/tulle"),
    about="the mesh's parts: python -m tulle.istiod, tulle.cni, tulle.ztunnel, tulle.waypoint",
    config=ImageConfig(
        cmd=("python", "-c", "import tulle; print(tulle.__version__)"),
        env=(*python.environment(), *heap.ENVIRONMENT.items(), ("GRPC_VERBOSITY", "ERROR")),
    ),
    recipe=python.root,
    made_from=(debian.STATUS, *python.origins()),
)
