"""A small httpbin: a server that tells a client what it sent, and answers as it is asked to."""

from __future__ import annotations

import base64
import binascii
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tulle.cluster.node.images.servers.http import Answer, Request, serve

MAX_DELAY = 10.0
MAX_BYTES = 100 * 1024


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
    return Answer(status, body, "application/json", headers or {})


def _joined(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in pairs:
        name = "-".join(part.capitalize() for part in key.split("-"))
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _arguments(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in request.query:
        known = found.get(key)
        found[key] = value if known is None else [*(known if isinstance(known, list) else [known]), value]
    return found


def _echo(request: Request) -> dict[str, Any]:
    scheme = request.header("x-forwarded-proto") or "http"
    host = request.header("host")
    return {
        "args": _arguments(request),
        "headers": _joined(request.headers),
        "origin": request.header("x-forwarded-for") or request.client,
        "url": f"{scheme}://{host}{request.target}",
    }


def _anything(request: Request, _rest: str) -> Answer:
    text = request.body.decode("utf-8", "replace")
    form: dict[str, str] = {}
    parsed: Any = None
    kind = request.header("content-type").split(";")[0]
    if kind == "application/x-www-form-urlencoded":
        form = dict(part.partition("=")[::2] for part in text.split("&") if part)
        text = ""
    elif kind == "application/json":
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
    return _json({**_echo(request), "method": request.method, "data": text, "files": {}, "form": form, "json": parsed})


def _get(request: Request, _rest: str) -> Answer:
    return _json(_echo(request))


def _headers(request: Request, _rest: str) -> Answer:
    return _json({"headers": _joined(request.headers)})


def _ip(request: Request, _rest: str) -> Answer:
    return _json({"origin": request.header("x-forwarded-for") or request.client})


def _user_agent(request: Request, _rest: str) -> Answer:
    return _json({"user-agent": request.header("user-agent")})


def _status(_request: Request, rest: str) -> Answer:
    if not rest.isdigit() or not 200 <= int(rest) <= 599:
        return Answer(400, b"Invalid status code\n")
    location = {"Location": "/redirect/1"} if int(rest) in {301, 302, 303, 307, 308} else {}
    return Answer(int(rest), headers=location)


def _delay(request: Request, rest: str) -> Answer:
    try:
        seconds = min(max(float(rest), 0.0), MAX_DELAY)
    except ValueError:
        return Answer(400, b"Invalid delay\n")
    time.sleep(seconds)
    return _anything(request, "")


def _bytes(_request: Request, rest: str) -> Answer:
    if not rest.isdigit():
        return Answer(400, b"Invalid number of bytes\n")
    return Answer(200, os.urandom(min(int(rest), MAX_BYTES)), "application/octet-stream")


def _redirect(_request: Request, rest: str) -> Answer:
    count = int(rest) if rest.isdigit() else 1
    return Answer(302, headers={"Location": f"/redirect/{count - 1}" if count > 1 else "/get"})


def _basic_auth(request: Request, rest: str) -> Answer:
    scheme, _, given = request.header("authorization").partition(" ")
    user, _, password = rest.partition("/")
    try:
        right = scheme.lower() == "basic" and base64.b64decode(given).decode() == f"{user}:{password}"
    except (binascii.Error, UnicodeDecodeError):
        right = False
    if not right:
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="Fake Realm"'})
    return _json({"authenticated": True, "user": user})


def _response_headers(request: Request, _rest: str) -> Answer:
    wanted = {k: v for k, v in request.query if "\n" not in k + v and "\r" not in k + v}
    return _json(_arguments(request), headers=wanted)


def _cookies(request: Request, _rest: str) -> Answer:
    pairs = (item.strip().partition("=") for item in request.header("cookie").split(";") if item.strip())
    return _json({"cookies": {name: value for name, _, value in pairs}})


def _index(_request: Request, _rest: str) -> Answer:
    names = "".join(f"<li>/{name}</li>" for name in sorted(_ROUTES))
    return Answer(
        200, f"<!DOCTYPE html><html><head><title>httpbin</title></head><body><ul>{names}</ul></body></html>\n".encode()
    )


_ANY = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
_READ = frozenset({"GET", "HEAD"})

_ROUTES: Mapping[str, tuple[frozenset[str], Callable[[Request, str], Answer]]] = {
    "get": (_READ, _get),
    "post": (frozenset({"POST"}), _anything),
    "put": (frozenset({"PUT"}), _anything),
    "patch": (frozenset({"PATCH"}), _anything),
    "delete": (frozenset({"DELETE"}), _anything),
    "anything": (_ANY, _anything),
    "headers": (_READ, _headers),
    "ip": (_READ, _ip),
    "user-agent": (_READ, _user_agent),
    "status": (_ANY, _status),
    "delay": (_ANY, _delay),
    "bytes": (_READ, _bytes),
    "redirect": (_READ, _redirect),
    "basic-auth": (_READ, _basic_auth),
    "response-headers": (_READ | {"POST"}, _response_headers),
    "cookies": (_READ, _cookies),
}


def answer(request: Request) -> Answer:
    """One request: the first part of the path chooses what to do."""
    first, _, rest = request.path.lstrip("/").partition("/")
    if not first:
        return _index(request, "")
    if first not in _ROUTES:
        return Answer(404, b"Not Found\n")
    methods, handler = _ROUTES[first]
    if request.method not in methods:
        return Answer(405, b"Method Not Allowed\n", headers={"Allow": ", ".join(sorted(methods))})
    return handler(request, rest)


if __name__ == "__main__":
    serve(int(sys.argv[sys.argv.index("--port") + 1]), answer, "httpbin")
