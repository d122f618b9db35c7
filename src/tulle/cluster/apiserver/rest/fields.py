"""Unknown fields and wrong types, as the client wants them handled (`fieldValidation`: Strict, Warn or Ignore)."""

from __future__ import annotations

from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.rest.call import Options
from tulle.cluster.apiserver.schema import custom
from tulle.cluster.apiserver.schema.decode import DecodeError, decode

Object = dict[str, Any]


def check_fields(kind: Kind, obj: Object, options: Options) -> Object:
    """The object with unknown fields pruned. Raises StatusError 400 for wrong types, and in Strict mode for unknown fields."""
    if isinstance(kind.schema, str):
        return check_builtin(kind.schema, kind.kind, kind.api_version, obj, options)
    unknown = custom.prune(obj, kind.schema)
    _report(kind.kind, kind.api_version, unknown, options)
    return obj


def check_builtin(schema: str, kind: str, api_version: str, obj: Object, options: Options) -> Object:
    """`check_fields` for a definition that need not be a kind of its own (the body of a subresource)."""
    try:
        decoded = decode(obj, schema)
    except DecodeError as error:
        raise errors.bad_request(
            f'{kind} in version "{_version(api_version)}" cannot be handled as a {kind}: {error}'
        ) from None
    _report(kind, api_version, decoded.unknown, options)
    return decoded.value


def _version(api_version: str) -> str:
    return api_version.rpartition("/")[2]


def _report(kind: str, api_version: str, unknown: list[str], options: Options) -> None:
    if not unknown or options.validation == "Ignore":
        return
    texts = [f'unknown field "{path}"' for path in unknown]
    if options.validation == "Strict":
        raise errors.bad_request(
            f'{kind} in version "{_version(api_version)}" cannot be handled as a {kind}: '
            f"strict decoding error: {', '.join(texts)}"
        )
    options.warnings.extend(text for text in texts if text not in options.warnings)
