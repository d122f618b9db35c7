"""The rules of delta ADS, each as a recorded conversation (`conversations.yaml`) replayed byte for byte against the server's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import status_pb2

from tulle.xds import types
from tulle.xds.delta import ServerStream
from tulle.xds.resources import ResourceMap

RECORDED = yaml.safe_load(Path(__file__).with_name("conversations.yaml").read_text())
TYPES = {
    "listener": types.LISTENER,
    "endpoints": types.ENDPOINTS,
    "secret": types.SECRET,
    "address": types.ADDRESS,
    "authorization": types.AUTHORIZATION,
    "unknown": "type.googleapis.com/example.Unknown",
}


class Replay:
    """One conversation. Everything crosses it as bytes."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name
        self.maps = {url: ResourceMap(url) for name, url in TYPES.items() if name != "unknown"}
        self.stream = ServerStream(self.maps.get, lambda: None)
        self.last: dict[str, str] = {}
        self.nonces: list[str] = []
        self.written: list[Any] = []

    def step(self, step: Any) -> None:
        if step == "silence":
            assert self.unread() == []
            return
        for one in step.get("together", ()):
            self.change(one)
        self.change(step)
        if "client" in step:
            self.client(step["client"] or {})
        if "server" in step:
            self.server(step["server"] or {})

    def change(self, step: Mapping[str, Any]) -> None:
        resources = self.maps.get(self.url(step))
        for name, given in step.get("set", {}).items():
            told = given if isinstance(given, dict) else {"value": given}
            assert resources is not None
            resources.set(name, StringValue(value=told["value"]), told.get("aliases", ()))
        for name in step.get("remove", ()):
            assert resources is not None
            resources.remove(name)

    def url(self, step: Mapping[str, Any]) -> str:
        return TYPES[step.get("type", self.type_name)]

    def client(self, told: Mapping[str, Any]) -> None:
        url = self.url(told)
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=url,
            resource_names_subscribe=told.get("subscribe", ()),
            resource_names_unsubscribe=told.get("unsubscribe", ()),
            initial_resource_versions=dict(self.versions(url, told.get("versions", {}))),
        )
        ack = told.get("ack")
        if ack or "nack" in told:
            request.response_nonce = ack if isinstance(ack, str) else self.last[url]
        if "nack" in told:
            request.error_detail.CopyFrom(status_pb2.Status(code=3, message=told["nack"]))
        self.unread_is_read()
        self.stream.receive(discovery_pb2.DeltaDiscoveryRequest.FromString(request.SerializeToString()))

    def versions(self, url: str, told: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name, version in told.items():
            entry = self.maps[url].get(name)
            yield name, entry.version if version == "=" and entry is not None else version

    def unread(self) -> list[Any]:
        self.written += [
            discovery_pb2.DeltaDiscoveryResponse.FromString(push.encode()) for push in self.stream.pushes()
        ]
        return self.written

    def unread_is_read(self) -> None:
        assert self.unread() == [], "the server said something that the conversation does not have"

    def server(self, told: Mapping[str, Any]) -> None:
        assert self.unread(), f"the server says nothing; expected was {dict(told)}"
        response = self.written.pop(0)
        assert response.type_url == self.url(told)
        updated = {one.name: StringValue.FromString(one.resource.value).value for one in response.resources}
        assert updated == told.get("updated", {})
        assert sorted(response.removed_resources) == told.get("removed", [])
        assert all(one.version and one.resource.type_url == response.type_url for one in response.resources)
        self.last[response.type_url] = response.nonce
        self.nonces.append(response.nonce)


@pytest.mark.parametrize("recorded", RECORDED, ids=[one["rule"] for one in RECORDED])
def test_rule(recorded: Mapping[str, Any]) -> None:
    replay = Replay(recorded.get("type", "listener"))
    for number, step in enumerate(recorded["steps"]):
        try:
            replay.step(step)
        except AssertionError as error:
            raise AssertionError(f"step {number} {step}: {error}") from error
    assert len(set(replay.nonces)) == len(replay.nonces), "a nonce names one response of a stream"
    assert replay.unread() == []
    replay.stream.close()
    assert all(not resources.wanted() for resources in replay.maps.values())


def test_no_rule_is_told_twice() -> None:
    rules = [one["rule"] for one in RECORDED]
    assert len(set(rules)) == len(rules)
