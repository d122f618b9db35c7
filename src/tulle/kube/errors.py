"""What a Kubernetes API server answers when it refuses, as exceptions that callers tell apart by class."""
# ruff: noqa: N818 - the classes carry the names of the API's own Status reasons.

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tulle.kube.objects.meta import Status


class ApiError(Exception):
    """A request that did not succeed.

    ``code``: HTTP status, 0 when no answer came. ``reason`` and ``message``: of the Status object, or made from
    the HTTP answer. ``details``: the Status details (name, group, kind, causes, retryAfterSeconds).
    """

    def __init__(
        self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None, request: str = ""
    ) -> None:
        super().__init__(f"{message} ({request})" if request else message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details: Mapping[str, Any] = details or {}
        self.request = request


class BadRequest(ApiError):
    """400: the request itself is malformed."""


class Unauthorized(ApiError):
    """401: the credentials are missing, expired or unknown."""


class Forbidden(ApiError):
    """403: the identity may not do this."""


class NotFound(ApiError):
    """404: no such object, or no such resource."""


class Conflict(ApiError):
    """409: the object changed since it was read, or a server-side apply conflict."""


class AlreadyExists(ApiError):
    """409 with reason AlreadyExists: the name is taken."""


class Gone(ApiError):
    """410: the resource version is too old to continue from; list again."""


class Invalid(ApiError):
    """422: the object breaks a rule of its schema; ``details["causes"]`` names the fields."""


class TooManyRequests(ApiError):
    """429: the server asks to wait."""


class Unreachable(ApiError):
    """No answer: connection refused, reset, timed out, or TLS failed."""


class Undecodable(ApiError):
    """The server's answer is not the JSON that the resource's type promises."""


_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}
_REASONS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired"}


def error_from_status(status: Status, http_code: int, request: str = "") -> ApiError:
    """The exception for a Status object."""
    code = status.code or http_code
    kind = AlreadyExists if status.reason == "AlreadyExists" else _BY_CODE.get(code, ApiError)
    message = status.message or f"the server answered {code} {status.reason}".rstrip()
    return kind(code, status.reason or _REASONS.get(code, ""), message, status.details, request)


def error_from_response(code: int, body: bytes, request: str) -> ApiError:
    """The exception for an HTTP answer whose body is a Status object, or anything else."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = re.sub(r"\s+", " ", body[:300].decode("utf-8", "replace")).strip()
        status = Status(message=f"the server answered {code}: {text}" if text else "", code=code)
    return error_from_status(status, code, request)
