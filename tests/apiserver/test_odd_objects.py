"""One odd object among many: it is refused, and if it is there already it spoils no list of the others."""

from __future__ import annotations

from typing import Any

import pytest

from tulle.cluster.store import Key

from .conftest import Api
from .test_schemas import definition

N = "/api/v1/namespaces/n"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}


def event(**times: str) -> Any:
    return {"metadata": {"name": "e"}, "involvedObject": {"namespace": "n"}, **times}


def endpoints(*addresses: Any, **port: Any) -> Any:
    return {"metadata": {"name": "e"}, "subsets": [{"addresses": list(addresses), "ports": [port]}]}


@pytest.mark.parametrize(
    "time",
    ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00Z", "2024-13-01T00:00:00Z", "soon", "20240101T000000Z"],
)
async def test_times_are_such(api: Api, time: str) -> None:
    await api.namespace("n")
    status, refused = await api.call("POST", f"{N}/events", event(firstTimestamp=time))
    assert (status, refused["reason"]) == (400, "BadRequest")
    assert f'parsing time "{time}"' in refused["message"]
    assert "firstTimestamp" in refused["message"]
    leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases"
    assert (await api.call("POST", leases, {"metadata": {"name": "l"}, "spec": {"renewTime": time}}))[0] == 400


@pytest.mark.parametrize(
    "time",
    [
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00.123456Z",
        "2024-01-01T00:00:00.123456789+02:00",
        "0001-01-01T00:00:00Z",
    ],
)
async def test_times_may_have_fractions_and_zones(api: Api, time: str) -> None:
    await api.namespace("n")
    await api.ok("POST", f"{N}/events", event(firstTimestamp=time, eventTime=time))
    await api.ok("GET", f"{N}/events", headers=TABLE)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (endpoints({"hostname": "x"}, port=80), "subsets[0].addresses[0].ip"),
        (endpoints({"ip": "x"}, port=80), "subsets[0].addresses[0].ip"),
        (endpoints({"ip": "10.0.0.1"}, name="x"), "subsets[0].ports[0].port"),
    ],
)
async def test_endpoints_have_addresses_and_ports(api: Api, body: Any, field: str) -> None:
    await api.namespace("n")
    status, refused = await api.call("POST", f"{N}/endpoints", body)
    assert (status, [c["field"] for c in refused["details"]["causes"]]) == (422, [field])


ENDED = {"name": "c", "restartCount": 1, "lastState": {"terminated": {"finishedAt": "2024-01-01"}}}


@pytest.mark.parametrize(
    ("resource", "path", "obj"),
    [
        ("events", f"{N}/events", {"firstTimestamp": "2024-01-01", "lastTimestamp": "soon"}),
        ("endpoints", f"{N}/endpoints", endpoints({"hostname": "x"}, name="x")),
        ("pods", f"{N}/pods", {"status": {"containerStatuses": [ENDED]}}),
    ],
)
async def test_what_is_stored_from_before_spoils_no_table(api: Api, resource: str, path: str, obj: Any) -> None:
    await api.namespace("n")
    await api.server.store.write(Key(resource, "n", "odd"), {**obj, "metadata": {"name": "odd", "namespace": "n"}}, 0)
    assert [row["object"]["metadata"]["name"] for row in (await api.ok("GET", path, headers=TABLE))["rows"]] == ["odd"]


async def test_a_node_with_half_an_address_spoils_no_table(api: Api) -> None:
    await api.ok("POST", "/api/v1/nodes", {"metadata": {"name": "x"}})
    merge = {"Content-Type": "application/merge-patch+json"}
    status = {"status": {"addresses": [{"type": "InternalIP"}]}}
    await api.ok("PATCH", "/api/v1/nodes/x/status", status, headers=merge)
    (row,) = (await api.ok("GET", "/api/v1/nodes", headers=TABLE))["rows"]
    assert row["cells"][5] == "<none>"


async def test_a_date_without_a_zone_spoils_no_table_of_custom_resources(api: Api) -> None:
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"day": {"type": "string"}}}}
    columns = [{"name": "Day", "type": "date", "jsonPath": ".day"}]
    body = definition(schema=schema, additionalPrinterColumns=columns)
    await api.ok("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    await api.ok("POST", "/apis/e.com/v1/xs", {"metadata": {"name": "a"}, "day": "2024-01-01"})
    (row,) = (await api.ok("GET", "/apis/e.com/v1/xs", headers=TABLE))["rows"]
    assert row["cells"] == ["a", "<unknown>"]
