"""`istioctl proxy-status POD`: what istiod means a proxy to have, beside what it has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cli.console import CommandError
from tulle.cli.proxy_diff import compare

ADMIN = "type.googleapis.com/envoy.admin.v3."


def istiod(*clusters: Any, listeners: Any = ()) -> bytes:
    parts = [
        {"@type": f"{ADMIN}ClustersConfigDump", "dynamicActiveClusters": [{"cluster": one} for one in clusters]},
        {
            "@type": f"{ADMIN}ListenersConfigDump",
            "dynamicListeners": [{"name": one["name"], "activeState": {"listener": one}} for one in listeners],
        },
    ]
    return json.dumps({"configs": parts}).encode()


def envoy(*clusters: Any, loaded: str = "") -> bytes:
    route = {"route_config": {"name": "r"}, "last_updated": loaded}
    parts = [
        {"@type": f"{ADMIN}BootstrapConfigDump", "bootstrap": {"node": {"id": "x"}}},
        {
            "@type": f"{ADMIN}ClustersConfigDump",
            "static_clusters": [{"cluster": {"name": "own"}}],
            "dynamic_active_clusters": [{"cluster": one, "last_updated": "2026-01-01T00:00:00Z"} for one in clusters],
        },
        {"@type": f"{ADMIN}RoutesConfigDump", "dynamic_route_configs": [route] if loaded else []},
    ]
    return json.dumps({"configs": parts}).encode()


def test_the_same_in_another_order_and_spelling_matches() -> None:
    meant = istiod({"name": "b", "connectTimeout": "5s"}, {"name": "a", "lbPolicy": "RANDOM", "acceptHttp10": True})
    had = envoy({"lb_policy": "RANDOM", "name": "a", "accept_http_10": True}, {"name": "b", "connect_timeout": "5s"})
    assert compare(meant, had) == "Clusters Match\nListeners Match\nRoutes Match"


def test_a_difference_is_shown_where_it_is() -> None:
    text = compare(istiod({"name": "a", "lbPolicy": "RANDOM"}), envoy({"name": "a", "lb_policy": "MAGLEV"}))
    clusters, *rest = text.split("\nListeners")
    assert clusters.splitlines() == [
        "--- Istiod Clusters",
        "+++ Envoy Clusters",
        "@@ -1,6 +1,6 @@",
        " [",
        "   {",
        '-    "lb_policy": "RANDOM",',
        '+    "lb_policy": "MAGLEV",',
        '     "name": "a"',
        "   }",
        " ]",
    ]
    assert rest == [" Match\nRoutes Match"]


def test_what_is_missing_on_one_side() -> None:
    assert '-    "name": "l"' in compare(istiod(listeners=[{"name": "l"}]), envoy())
    text = compare(istiod(), envoy(loaded="2026-01-01T00:00:00Z"))
    assert '+    "name": "r"' in text


@given(st.dictionaries(st.from_regex(r"[a-z]{1,4}([A-Z][a-z]{1,3}){0,2}", fullmatch=True), st.integers(), max_size=5))
def test_a_resource_always_matches_itself(fields: dict[str, int]) -> None:
    one = {**fields, "name": "x"}
    assert compare(istiod(one), envoy(one)).startswith("Clusters Match\n")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"configs": {}}'])
def test_what_is_no_dump(text: bytes) -> None:
    with pytest.raises(CommandError, match="of the proxy is not understood"):
        compare(istiod(), text)
    with pytest.raises(CommandError, match="of istiod is not understood"):
        compare(text, envoy())
