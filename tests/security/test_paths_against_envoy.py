"""Path normalisation, asked of a real Envoy: what policies see of a path has to be what it makes of it."""

from __future__ import annotations

import pathlib
import re
import string
from typing import Any

import pytest

from tulle.security.envoy_rbac import http_normalization
from tulle.security.mesh import PATH_NORMALIZATIONS, MeshSettings
from tulle.security.paths import normalize

from .test_against_envoy import answer_of, running_envoy

_TYPES = "type.googleapis.com/envoy.extensions.filters"
_VISIBLE = string.ascii_letters + string.digits + string.punctuation.replace("#", "")
PATHS = (
    *(f"/a{char}b" for char in _VISIBLE),
    *(f"/a%{ord(char):02{case}}b" for char in _VISIBLE for case in "xX"),
    *(
        "/..",
        "/../a",
        "/a/..",
        "/a/.",
        "/a//../b",
        "/a/%2e%2e/b",
        "/a%2f..%2fb",
        "/a\\..\\b",
        "/a%5c..%5cb",
        "/a/..%2f",
    ),
    *("/a;b/../c", "/%", "/%2", "/%zz", "/%252e", "/a/...", "/.a", "/a?b=/../c", "/a/%2e%2e?x", "/a/.%2e/b", "/a{b}?{"),
    *("//", "///", "////", "//?x", "//a//", "/.//", "//..//", "/%2f", "/%2F%5c"),
)


def _listener(option: str, directory: pathlib.Path) -> dict[str, Any]:
    route = {
        "match": {"prefix": ""},
        "direct_response": {"status": 200},
        "response_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:path)%"}}],
    }
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        **http_normalization(MeshSettings(path_normalization=option)),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"}}],
    }
    return {
        "name": option,
        "address": {"pipe": {"path": str(directory / option)}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _seen(socket: pathlib.Path, path: str) -> str:
    answer = answer_of(socket, f"GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    found = re.search(r"^x-path: (.*)\r$", answer, re.MULTILINE)
    return found[1].partition("?")[0] if found else answer.partition("\r")[0]


@pytest.mark.parametrize("option", PATH_NORMALIZATIONS)
def test_envoy_normalises_alike(tmp_path: pathlib.Path, option: str) -> None:
    with running_envoy(tmp_path, [_listener(option, tmp_path)]):
        made = {path: _seen(tmp_path / option, path) for path in PATHS}
    assert {
        path: (normalize(path, option), seen) for path, seen in made.items() if normalize(path, option) != seen
    } == {}
