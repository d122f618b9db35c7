"""Request paths: how they are normalised, and templates.

A path policy is only as good as the agreement on what the path is. The normalisation here is that which the waypoint's
Envoy applies before it matches and forwards (C3), and templates become regular expressions in the subset that Python's
``re`` and Envoy's RE2 share.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .match import Predicate, string_predicate

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_ESCAPED_SLASH = re.compile(r"%(?:2[Ff]|5[Cc])")
_SLASHES = re.compile(r"/{2,}")
_QUOTED = str.maketrans({char: f"%{ord(char):02X}" for char in '"<>^`{|}'})
"""What may not stand in a path as it is; so a pattern with such a character matches no normalised path, only one with its escape."""
_PCHARS = re.compile(r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%[0-9A-Fa-f]{2})*")


def normalize(raw: str, option: str) -> str:
    """The path that policies see for a request target ``raw``: without query and fragment, under a mesh-wide option.

    ``option`` is one of NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES.
    """
    # What every option leaves alone. In most requests that is all, and looking is ten times faster than an expression.
    if not (
        ("." in raw or "%" in raw or "//" in raw or "?" in raw or "#" in raw or "\\" in raw)
        or (
            '"' in raw or "<" in raw or ">" in raw or "^" in raw or "`" in raw or "{" in raw or "|" in raw or "}" in raw
        )
    ):
        return raw
    path = raw.split("#", 1)[0].split("?", 1)[0]
    if option == "NONE":
        return path
    if option == "DECODE_AND_MERGE_SLASHES":
        path = _ESCAPED_SLASH.sub("/", path)
    path = _ESCAPE.sub(_decode_unreserved, path).replace("\\", "/")
    path = _remove_dot_segments(path).translate(_QUOTED)
    return path if option == "BASE" else _merge_slashes(path)


def _merge_slashes(path: str) -> str:
    """Envoy keeps the slash at the start and that at the end, and takes two for that if there is nothing but slashes."""
    return "//" if len(path) > 1 and not path.strip("/") else _SLASHES.sub("/", path)


def _decode_unreserved(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0]


def _remove_dot_segments(path: str) -> str:
    if not path.startswith("/"):
        return path
    kept: list[str] = []
    segments = path[1:].split("/")
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
            if last:
                kept.append("")
        elif segment == ".":
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)


def is_template(pattern: str) -> bool:
    """Whether a path pattern is a template rather than a plain string form."""
    return "{*}" in pattern or "{**}" in pattern


def template_problem(pattern: str) -> str | None:
    """What is wrong with a template (C3), or None. Call it for every path that holds a brace."""
    if not is_template(pattern):
        return None
    segments = pattern.strip("/").split("/")
    for position, segment in enumerate(segments):
        if segment == "{**}":
            if any("{" in later for later in segments[position + 1 :]):
                return "{**} must be the last operator"
        elif segment != "{*}":
            if "{*}" in segment or "{**}" in segment:
                return f"the operator must be the whole segment, found {segment!r}"
            if any(char in segment for char in "*{}"):
                return f"'*', '{{' and '}}' may stand only in the operators {{*}} and {{**}}, found {segment!r}"
            if not _PCHARS.fullmatch(segment):
                return f"segment {segment!r} holds a character that no path segment may hold"
    return None


@lru_cache(maxsize=4096)
def template_regex(pattern: str) -> str:
    """The regular expression of a valid template: ``{*}`` is one segment, ``{**}`` any run, slashes included.

    A slash that ends the template after ``{**}`` must be in the path, but need not end it, as in the published examples:
    ``/foo/{**}/`` matches ``/foo/bar/``, ``/foo/bar/baz.txt`` and ``/foo//``, but not ``/foo/bar``.
    """
    tail = ""
    if pattern.endswith("{**}/"):
        pattern, tail = pattern[:-1], "/.*"
    parts = re.split(r"(\{\*\*?\})", pattern)
    names = {"{*}": "[^/]+", "{**}": ".*"}
    return "".join(names.get(part, re.escape(part)) for part in parts) + tail


@lru_cache(maxsize=16384)
def path_predicate(pattern: str) -> Predicate:
    """A predicate for ``paths``: a template or a string form."""
    if not is_template(pattern):
        return string_predicate(pattern)
    compiled = re.compile(template_regex(pattern))
    return lambda path: compiled.fullmatch(path) is not None
