"""Getting images for containers: one attempt at a time per image, later each time it fails, and the events that tell
of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from tulle.cluster.node.images import names
from tulle.cluster.node.images.model import ImageUnavailableError
from tulle.cluster.node.images.store import ImageStore, LocalImage
from tulle.cluster.node.pods.spec import Container

FIRST_BACKOFF = 10.0
LAST_BACKOFF = 300.0

Tell = Callable[[str, str, str], None]
"""Records an event: type, reason, message."""


class PullError(Exception):
    """The image is not here. `reason` is the container's waiting reason, `retry_at` the clock time of the next
    attempt.
    """

    def __init__(self, reason: str, message: str, retry_at: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_at = retry_at


@dataclass
class _Failure:
    message: str
    backoff: float
    retry_at: float


def policy(container: Container, reference: names.Reference) -> str:
    """The container's imagePullPolicy, or the default: Always for the tag latest."""
    return container.image_pull_policy or (
        "Always" if reference.tag == "latest" and not reference.digest else "IfNotPresent"
    )


class Pulls:
    """The images of this node's pods."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._failures: dict[str, _Failure] = {}
        self._lock = asyncio.Lock()

    async def ensure(self, container: Container, tell: Tell) -> LocalImage:
        """The container's image, with its root on this machine. Raises PullError."""
        try:
            reference = names.parse(container.image)
        except names.ImageNameError as error:
            message = f'Failed to apply default image tag "{container.image}": {error}'
            tell("Warning", "InspectFailed", message)
            raise PullError("InvalidImageName", message, time.time() + LAST_BACKOFF) from error
        wanted = policy(container, reference)
        local = await asyncio.to_thread(self._store.find, reference)
        if local is not None and wanted != "Always":
            tell(
                "Normal",
                "Pulled",
                f'Container image "{container.image}" already present on machine and can be accessed by the pod',
            )
            return local
        if wanted == "Never":
            message = f'Container image "{container.image}" is not present with pull policy of Never'
            tell("Warning", "ErrImageNeverPull", message)
            raise PullError("ErrImageNeverPull", message, time.time() + FIRST_BACKOFF)
        return await self._pull(container.image, reference, tell)

    async def _pull(self, image: str, reference: names.Reference, tell: Tell) -> LocalImage:
        failure = self._failures.get(image)
        if failure is not None and time.time() < failure.retry_at:
            tell("Normal", "BackOff", f'Back-off pulling image "{image}"')
            raise PullError(
                "ImagePullBackOff", f'Back-off pulling image "{image}": {failure.message}', failure.retry_at
            )
        tell("Normal", "Pulling", f'Pulling image "{image}"')
        asked = time.monotonic()
        async with self._lock:
            began = time.monotonic()
            try:
                local = await asyncio.to_thread(self._store.pull, reference)
            except ImageUnavailableError as error:
                raise self._failed(image, str(error), tell) from error
        ended = time.monotonic()
        self._failures.pop(image, None)
        took, waited = _duration(ended - began), _duration(ended - asked)
        tell(
            "Normal",
            "Pulled",
            f'Successfully pulled image "{image}" in {took} ({waited} including waiting). Image size: {local.size} bytes.',
        )
        return local

    def _failed(self, image: str, why: str, tell: Tell) -> PullError:
        known = self._failures.get(image)
        backoff = min(known.backoff * 2, LAST_BACKOFF) if known is not None else FIRST_BACKOFF
        message = f'failed to pull image "{image}": {why}'
        self._failures[image] = _Failure(message, backoff, time.time() + backoff)
        tell("Warning", "Failed", f'Failed to pull image "{image}": {why}')
        tell("Warning", "Failed", "Error: ErrImagePull")
        # the next look, a moment later, is what turns the reason into ImagePullBackOff
        return PullError("ErrImagePull", message, time.time() + min(backoff, 3.0))


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.3f}s"
