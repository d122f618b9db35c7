"""The client's verbs, what it tries again, and how it fails."""

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest
from aiohttp import web

from tulle.kube import AlreadyExists, Client, Conflict, Gone, Invalid, NotFound, Undecodable, Unreachable, untyped
from tulle.kube.codec import decode, encode
from tulle.kube.config import Connection, TokenFile
from tulle.kube.errors import Unauthorized, error_from_response
from tulle.kube.objects import ConfigMap, EndpointSlice, ObjectMeta
from tulle.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, NAMESPACES, PODS

from .conftest import FakeApi


def status(code: int, reason: str = "", message: str = "no", **headers: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)


async def test_list_reads_every_page(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tulle.kube.client._PAGE", 2)
    for n in range(5):
        api.put("a", f"n{n}")
    listed = await client.list(CONFIG_MAPS)
    assert [o.metadata.name for o in listed.items] == ["n0", "n1", "n2", "n3", "n4"]
    assert listed.resource_version == str(api.rev)
    assert len(api.requests) == 3


async def test_list_starts_again_when_a_page_expired(
    api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tulle.kube.client._PAGE", 2)
    for n in range(5):
        api.put("a", f"n{n}")
    original, calls = api.listing, []

    def listing(request: web.Request) -> web.Response:
        calls.append(dict(request.query))
        return status(410, "Expired") if len(calls) == 2 else original(request)

    monkeypatch.setattr(api, "listing", listing)
    assert len((await client.list(CONFIG_MAPS)).items) == 5
    assert not {"continue", "limit"} & set(calls[2])


@pytest.mark.parametrize("answer", [(500, {}), (502, {}), (429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})])
async def test_reads_are_tried_again(api: FakeApi, client: Client, answer: tuple[int, dict[str, str]]) -> None:
    api.put("a", "one", x="1")
    code, headers = answer
    api.refuse = [status(code, **headers), status(code, **headers)]
    assert (await client.get(CONFIG_MAPS, "one", "a")).data == {"x": "1"}


async def test_a_write_is_tried_again_only_when_it_was_not_done(api: FakeApi, client: Client) -> None:
    ok = web.json_response({"metadata": {"name": "one"}})
    api.refuse = [status(429, **{"Retry-After": "0"}), ok]
    await client.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="one", namespace="a")))
    assert len(api.requests) == 2
    api.requests.clear()
    api.refuse = [status(500)]
    with pytest.raises(Exception, match="no") as caught:
        await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}}, "a")
    assert getattr(caught.value, "code", None) == 500
    assert len(api.requests) == 1


async def test_a_token_that_is_refused_at_the_last_try_is_said_so(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    token = TokenFile(tmp_path / "token")
    api.refuse = [status(503, **{"Retry-After": "0"}) for _ in range(6)] + [status(401)]
    async with Client(Connection(server=f"http://127.0.0.1:{api.port}", token=token)) as client:
        with pytest.raises(Unauthorized):
            await client.get(CONFIG_MAPS, "one", "a")


async def test_a_lost_answer_to_a_write_is_unreachable() -> None:
    seen = []

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Client(Connection(server=f"http://127.0.0.1:{port}")) as client:
        with pytest.raises(Unreachable, match="POST"):
            await client.create(CONFIG_MAPS, {"metadata": {"name": "x"}}, "a")
    server.close()
    await server.wait_closed()
    assert len(seen) == 1


async def test_refused_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tulle.kube.transport._DELAYS", (0.001, 0.001))
    async with Client(Connection(server="http://127.0.0.1:1")) as client:
        with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1 gave no answer"):
            await client.get(NAMESPACES, "x")


async def test_identity_of_the_component_is_sent(api: FakeApi, client: Client) -> None:
    api.put("a", "one")
    await client.get(CONFIG_MAPS, "one", "a")
    assert api.requests[0].headers["User-Agent"].startswith("test/")


async def test_not_found_names_the_request(client: Client) -> None:
    with pytest.raises(NotFound, match="GET /api/v1/namespaces/a/configmaps/none"):
        await client.get(CONFIG_MAPS, "none", "a")


async def test_watch_raises_gone_from_an_error_event(api: FakeApi, client: Client) -> None:
    api.put("a", "one")
    api.compact()
    async with aclosing(client.watch(CONFIG_MAPS, resource_version="1")) as events:
        with pytest.raises(Gone):
            await anext(events)


async def test_patch_kinds(api: FakeApi, client: Client) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.content_type, request.query_string, await request.read()))
        return web.json_response({"metadata": {"name": "one"}})

    api.handle = handle  # type: ignore[method-assign]
    await api.stop()
    await api.start()
    await client.patch(CONFIG_MAPS, "one", {"data": {"x": None}}, "a")
    await client.patch(CONFIG_MAPS, "one", [{"op": "remove", "path": "/data"}], "a", kind="json")
    await client.patch(CONFIG_MAPS, "one", {"data": {}}, "a", kind="apply", field_manager="m", force=True)
    assert [s[0] for s in seen] == [
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ]
    assert seen[2][1] == "fieldManager=m&force=true"
    assert json.loads(seen[0][2]) == {"data": {"x": None}}
    assert json.loads(seen[2][2]) == {"apiVersion": "v1", "kind": "ConfigMap", "data": {}}
    with pytest.raises(ValueError, match="field manager"):
        await client.patch(CONFIG_MAPS, "one", {}, "a", kind="apply")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (422, "", Invalid),
    ],
)
def test_errors_are_told_apart(code: int, reason: str, kind: type[Exception]) -> None:
    body = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": "m"}).encode()
    assert type(error_from_response(code, body, "GET /x")) is kind


def test_an_error_page_that_is_not_a_status() -> None:
    error = error_from_response(502, b"<html>\n bad   gateway</html>", "GET /x")
    assert error.code == 502
    assert "bad gateway" in str(error)
    assert "GET /x" in str(error)


def test_nulls_of_a_go_server_read_as_absent() -> None:
    data = b'{"metadata":{"name":"x","creationTimestamp":null},"endpoints":null,"ports":null,"addressType":"IPv4"}'
    assert decode(data, ENDPOINT_SLICES.type, "x") == EndpointSlice(metadata=ObjectMeta(name="x"), address_type="IPv4")


def test_undecodable_names_place_and_field() -> None:
    with pytest.raises(Undecodable, match=r"pods/x.*metadata\.name"):
        decode(b'{"metadata":{"name":7}}', PODS.type, "pods/x")


def test_encoding_says_what_the_object_is() -> None:
    assert json.loads(encode(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="x")))) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x"},
    }


def test_paths() -> None:
    policies = untyped("security.istio.io", "v1", "authorizationpolicies", "AuthorizationPolicy", True)
    assert policies.path("a", "b", "status") == "/apis/security.istio.io/v1/namespaces/a/authorizationpolicies/b/status"
    assert policies.path() == "/apis/security.istio.io/v1/authorizationpolicies"
    assert NAMESPACES.path(name="a/b") == "/api/v1/namespaces/a%2Fb"
    with pytest.raises(ValueError, match="give its namespace"):
        PODS.path(None, "x")
