"""Subresources: what is asked of one object is not done to another one of its name."""

from __future__ import annotations

from .conftest import Api
from .test_http import pod


async def test_a_binding_is_for_the_pod_that_was_looked_at(api: Api) -> None:
    namespace = await api.namespace("n")
    seen = await api.ok("POST", f"{namespace}/pods", pod("p"))
    await api.ok("DELETE", f"{namespace}/pods/p")
    await api.ok("POST", f"{namespace}/pods", pod("p"))
    target = {"kind": "Node", "name": "x"}
    for precondition in ({"uid": seen["metadata"]["uid"]}, {"resourceVersion": seen["metadata"]["resourceVersion"]}):
        metadata = {"name": "p", "namespace": "n", **precondition}
        status, refused = await api.call(
            "POST", f"{namespace}/pods/p/binding", {"metadata": metadata, "target": target}
        )
        assert (status, refused["reason"]) == (409, "Conflict")
    now = await api.ok("GET", f"{namespace}/pods/p")
    assert "nodeName" not in now["spec"]
    metadata = {key: now["metadata"][key] for key in ("name", "uid", "resourceVersion")}
    await api.ok("POST", f"{namespace}/pods/p/binding", {"metadata": metadata, "target": target})
    assert (await api.ok("GET", f"{namespace}/pods/p"))["spec"]["nodeName"] == "x"
