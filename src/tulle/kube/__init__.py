"""Client of any Kubernetes API, real or embedded, and the one place of Tulle that speaks it.

It exists because the mesh has to follow thousands of objects at little cost and survive API server restarts
without missing a change, which no available client did at that cost. Reading order: ``objects`` (typed kinds),
``resources`` (where they live), ``config`` and ``transport`` (who we are, how bytes travel), ``codec``,
``client`` (the verbs), ``informer`` (a local copy that follows), ``queue`` and ``events`` (what a controller
needs besides).
"""

from tulle.kube.client import Client, WatchEvent
from tulle.kube.codec import ListResult
from tulle.kube.config import ConfigError
from tulle.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Undecodable,
    Unreachable,
)
from tulle.kube.events import EventRecorder, reference
from tulle.kube.informer import Change, Informer
from tulle.kube.queue import WorkQueue
from tulle.kube.resources import Resource, untyped

__all__ = [
    "AlreadyExists",
    "ApiError",
    "BadRequest",
    "Change",
    "Client",
    "ConfigError",
    "Conflict",
    "EventRecorder",
    "Forbidden",
    "Gone",
    "Informer",
    "Invalid",
    "ListResult",
    "NotFound",
    "Resource",
    "TooManyRequests",
    "Unauthorized",
    "Undecodable",
    "Unreachable",
    "WatchEvent",
    "WorkQueue",
    "reference",
    "untyped",
]
