"""All images of the catalogue, by the names they are published under; any tag and digest of a name means the same
image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tulle.cluster.node.images import busybox, curl, distributions, mesh, nginx, samples
from tulle.cluster.node.images.model import Image

IMAGES: Sequence[Image] = (
    curl.IMAGE,
    nginx.IMAGE,
    busybox.IMAGE,
    distributions.DEBIAN,
    distributions.UBUNTU,
    samples.HELLOWORLD_V1,
    samples.HELLOWORLD_V2,
    samples.HTTPBIN,
    samples.GO_HTTPBIN,
    mesh.IMAGE,
)


def by_repository(images: Sequence[Image] = IMAGES) -> Mapping[str, Image]:
    return {repository: image for image in images for repository in image.repositories}
