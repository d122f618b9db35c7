"""The API's way of saying no: `Status` objects.

Clients branch on `code`, `reason` and `details`, and people read `message`; both are fixed by convention in Kubernetes, so
each kind of refusal is built in one place here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field. `reason` is a cause type of the API (FieldValueRequired ...)."""

    reason: str
    path: str
    text: str

    @property
    def message(self) -> str:
        """The message without the path, as in `status.details.causes`."""
        return self.text


def required(path: str, detail: str = "") -> FieldError:
    """The field is missing."""
    return FieldError("FieldValueRequired", path, "Required value" + (f": {detail}" if detail else ""))


def shown(value: Any) -> str:
    """A value as the API quotes it."""
    return msgspec.json.encode(value).decode()


def invalid_value(path: str, value: Any, detail: str) -> FieldError:
    """The value is not acceptable."""
    return FieldError("FieldValueInvalid", path, f"Invalid value: {shown(value)}: {detail}")


def type_invalid(path: str, found: str, detail: str) -> FieldError:
    """The value has the wrong JSON type."""
    return FieldError("FieldValueTypeInvalid", path, f'Invalid value: "{found}": {detail}')


def not_supported(path: str, value: Any, accepted: Iterable[Any]) -> FieldError:
    """The value is none of the accepted ones."""
    listed = ", ".join(shown(v) for v in accepted)
    return FieldError("FieldValueNotSupported", path, f"Unsupported value: {shown(value)}: supported values: {listed}")


def duplicate(path: str, value: Any) -> FieldError:
    """The value is there twice."""
    return FieldError("FieldValueDuplicate", path, f"Duplicate value: {shown(value)}")


def forbidden_field(path: str, detail: str) -> FieldError:
    """The field may not be set, or not be changed."""
    return FieldError("FieldValueForbidden", path, f"Forbidden: {detail}")


def not_found_value(path: str, value: Any) -> FieldError:
    """The value names something that is not there."""
    return FieldError("FieldValueNotFound", path, f"Not found: {shown(value)}")


def too_long(path: str, limit: int) -> FieldError:
    """A string above its limit."""
    return FieldError("FieldValueTooLong", path, f"Too long: may not be more than {limit} bytes")


def too_many(path: str, found: int, limit: int) -> FieldError:
    """A list above its limit."""
    return FieldError("FieldValueTooMany", path, f"Too many: {found}: must have at most {limit} items")


@dataclass(slots=True)
class StatusError(Exception):
    """A refusal; `body()` is the Status object to answer with."""

    code: int
    reason: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """The v1 Status."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = dict(self.details)
        return status | {"code": self.code}


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def _details(name: str, group: str, kind: str) -> dict[str, Any]:
    details = {"name": name, "group": group, "kind": kind}
    return {key: value for key, value in details.items() if value}


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: str, group: str, name: str, why: str) -> StatusError:
    """403 for an object (or for a whole resource when `name` is empty)."""
    what = f'{_qualified(resource, group)} "{name}"' if name else _qualified(resource, group)
    return StatusError(403, "Forbidden", f"{what} is forbidden: {why}", _details(name, group, resource))


def forbidden_path(user: str, verb: str, path: str) -> StatusError:
    """403 for a path that is not a resource."""
    message = f'forbidden: User "{user}" cannot {verb} path "{path}"'
    return StatusError(403, "Forbidden", message)


def not_found(resource: str, group: str, name: str) -> StatusError:
    """404 for an object."""
    message = f'{_qualified(resource, group)} "{name}" not found'
    return StatusError(404, "NotFound", message, _details(name, group, resource))


def no_such_path() -> StatusError:
    """404 for a path or resource that is not served."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed(verb: str, resource: str, group: str) -> StatusError:
    """405."""
    message = f'{verb} is not supported on resources of kind "{_qualified(resource, group)}"'
    return StatusError(405, "MethodNotAllowed", message, _details("", group, resource))


def already_exists(resource: str, group: str, name: str) -> StatusError:
    """409: there is one."""
    message = f'{_qualified(resource, group)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(name, group, resource))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: str, group: str, name: str, why: str = MODIFIED) -> StatusError:
    """409: optimistic concurrency or a precondition."""
    message = f'Operation cannot be fulfilled on {_qualified(resource, group)} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(name, group, resource))


def expired(message: str) -> StatusError:
    """410: the resourceVersion or continue token is too old."""
    return StatusError(410, "Expired", message)


def not_acceptable(accept: str) -> StatusError:
    """406."""
    message = f"only the following media types are accepted: application/json, application/yaml (found: {accept})"
    return StatusError(406, "NotAcceptable", message)


def unsupported_media_type(found: str, accepted: Sequence[str]) -> StatusError:
    """415."""
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return StatusError(415, "UnsupportedMediaType", f"{message} (found {found!r})")


def too_large_revision(requested: int, current: int) -> StatusError:
    """504: the resourceVersion lies in the future."""
    message = f"Timeout: Too large resource version: {requested}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return StatusError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def request_too_large(limit: int) -> StatusError:
    """413."""
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def internal(message: str) -> StatusError:
    """500."""
    return StatusError(500, "InternalError", f"Internal error occurred: {message}")


def unavailable(message: str) -> StatusError:
    """503."""
    return StatusError(503, "ServiceUnavailable", message)


def invalid(kind: str, group: str, name: str, errors: Sequence[FieldError]) -> StatusError:
    """422 with one cause per field error."""
    texts = [f"{error.path}: {error.text}" for error in errors]
    body = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    causes = [{"reason": e.reason, "message": e.text, "field": e.path} for e in errors]
    message = f'{_qualified(kind, group)} "{name}" is invalid: {body}'
    return StatusError(422, "Invalid", message, _details(name, group, kind) | {"causes": causes})
