"""Extension providers of the mesh configuration: who may be asked to decide on requests (action CUSTOM).

Only external authorizers matter to security; another kind of provider is kept by its name and kind, so that a policy which
names it can be told apart from one that names nothing. A provider that is an authorizer but cannot be read is an error of the
mesh configuration: guessing at it would decide requests by a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .durations import read_duration

HTTP_KIND = "envoyExtAuthzHttp"
GRPC_KIND = "envoyExtAuthzGrpc"
_DEFAULT_TIMEOUT = "600s"
_DENIED = 403
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_PATTERN = re.compile(r"\*?[!#$%&'+.^_`|~0-9A-Za-z-]*\*?")


class InvalidMeshConfig(ValueError):  # noqa: N818 - it names the finding, as NotFound does
    """A MeshConfig that cannot be used; ``path`` names the field."""

    def __init__(self, path: str, found: object, accepted: str) -> None:
        super().__init__(f"mesh configuration: {path}: found {found!r}; accepted is {accepted}")
        self.path = path


@dataclass(frozen=True, slots=True)
class RequestBody:
    """How much of a request's body an authorizer is sent, in bytes. ``partial``: a longer one is cut instead of refused."""

    max_bytes: int
    partial: bool = False
    raw: bool = False


@dataclass(frozen=True, slots=True)
class ExtAuthz:
    """An external authorizer. ``service`` is ``[namespace/]hostname``, ``timeout`` in seconds.

    Header names and values of ``include_headers`` and the ``to_*`` fields may be exact, ``prefix*`` or ``*suffix``.
    """

    grpc: bool
    service: str
    port: int
    timeout: float = 600.0
    fail_open: bool = False
    status_on_error: int = _DENIED
    path_prefix: str = ""
    include_headers: tuple[str, ...] = ()
    additional_headers: tuple[tuple[str, str], ...] = ()
    to_upstream_on_allow: tuple[str, ...] = ()
    to_downstream_on_deny: tuple[str, ...] = ()
    to_downstream_on_allow: tuple[str, ...] = ()
    body: RequestBody | None = None


@dataclass(frozen=True, slots=True)
class ExtensionProvider:
    """An entry of extensionProviders: its name, the key of the block that defines it, and the authorizer if it is one."""

    name: str
    kind: str = ""
    ext_authz: ExtAuthz | None = None


def read_providers(values: object) -> tuple[ExtensionProvider, ...]:
    """Read ``extensionProviders``. Raises InvalidMeshConfig with the field's path."""
    found: dict[str, ExtensionProvider] = {}
    for index, value in enumerate(_sequence(values, "extensionProviders")):
        path = f"extensionProviders[{index}]"
        entry = _mapping(value, path)
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidMeshConfig(f"{path}.name", name, "a non-empty name")
        if name in found:
            raise InvalidMeshConfig(f"{path}.name", name, "a name that no other provider has")
        found[name] = _provider(name, entry, path)
    return tuple(found.values())


def _provider(name: str, entry: Mapping[str, Any], path: str) -> ExtensionProvider:
    kinds = [key for key in entry if key != "name"]
    if len(kinds) != 1:
        return ExtensionProvider(name, kinds[0] if kinds else "")
    kind = kinds[0]
    if kind not in (HTTP_KIND, GRPC_KIND):
        return ExtensionProvider(name, kind)
    return ExtensionProvider(name, kind, _Block(_mapping(entry[kind], f"{path}.{kind}"), f"{path}.{kind}").authorizer())


@dataclass(frozen=True, slots=True)
class _Block:
    """One provider's block, read field by field."""

    fields: Mapping[str, Any]
    path: str

    def authorizer(self) -> ExtAuthz:
        grpc = self.path.endswith(GRPC_KIND)
        extra = _mapping(
            self.fields.get("includeAdditionalHeadersInCheck"), self._at("includeAdditionalHeadersInCheck")
        )
        return ExtAuthz(
            grpc=grpc,
            service=self._text("service", "", "the service's host name, or namespace/host name"),
            port=self._number("port", 0, 1, 65535),
            timeout=self._duration(),
            fail_open=self._flag("failOpen"),
            status_on_error=self._status(),
            path_prefix="" if grpc else self._path_prefix(),
            include_headers=self._header_names("includeRequestHeadersInCheck")
            or self._header_names("includeHeadersInCheck"),
            additional_headers=self._additional(extra),
            to_upstream_on_allow=self._header_names("headersToUpstreamOnAllow"),
            to_downstream_on_deny=self._header_names("headersToDownstreamOnDeny"),
            to_downstream_on_allow=self._header_names("headersToDownstreamOnAllow"),
            body=self._body(),
        )

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}"

    def _text(self, key: str, default: str, accepted: str) -> str:
        value = self.fields.get(key, default)
        if not isinstance(value, str) or (not value and not default and accepted):
            raise InvalidMeshConfig(self._at(key), value, accepted)
        return value

    def _path_prefix(self) -> str:
        prefix = self._text("pathPrefix", "", "")
        if prefix and not prefix.startswith("/"):
            raise InvalidMeshConfig(self._at("pathPrefix"), prefix, "a path that starts with /")
        return prefix

    def _number(self, key: str, default: int, lowest: int, highest: int) -> int:
        value = self.fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise InvalidMeshConfig(self._at(key), value, f"a number from {lowest} to {highest}")
        return value

    def _flag(self, key: str) -> bool:
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise InvalidMeshConfig(self._at(key), value, "true or false")
        return value

    def _duration(self) -> float:
        text = self.fields.get("timeout") or _DEFAULT_TIMEOUT
        try:
            return read_duration(str(text))
        except ValueError:
            raise InvalidMeshConfig(self._at("timeout"), text, "a duration, as in 5s") from None

    def _status(self) -> int:
        value = self.fields.get("statusOnError") or _DENIED
        text = str(value)
        if not text.isdigit() or not 200 <= int(text) <= 599:
            raise InvalidMeshConfig(self._at("statusOnError"), value, "an HTTP status from 200 to 599")
        return int(text)

    def _header_names(self, key: str) -> tuple[str, ...]:
        names = _sequence(self.fields.get(key), self._at(key))
        for index, name in enumerate(names):
            if not isinstance(name, str) or not name or not _HEADER_PATTERN.fullmatch(name):
                accepted = "a header name, with * at its start or end at most"
                raise InvalidMeshConfig(f"{self._at(key)}[{index}]", name, accepted)
        return tuple(names)

    def _additional(self, headers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        for name, value in headers.items():
            path = f"{self._at('includeAdditionalHeadersInCheck')}.{name}"
            if not _HEADER_NAME.fullmatch(str(name)):
                raise InvalidMeshConfig(path, name, "the name of an HTTP header")
            if not str(value).isprintable():
                raise InvalidMeshConfig(path, value, "a header value in one line")
        return tuple(sorted((str(name), str(value)) for name, value in headers.items()))

    def _body(self) -> RequestBody | None:
        key = "includeRequestBodyInCheck"
        if self.fields.get(key) is None:
            return None
        block = _Block(_mapping(self.fields[key], self._at(key)), self._at(key))
        return RequestBody(
            block._number("maxRequestBytes", 0, 1, (1 << 32) - 1),
            block._flag("allowPartialMessage"),
            block._flag("packAsBytes"),
        )


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidMeshConfig(path, value, "a mapping")
    return value


def _sequence(value: object, path: str) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidMeshConfig(path, value, "a list")
    return value
