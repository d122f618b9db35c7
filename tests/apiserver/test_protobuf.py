"""The protobuf input: messages built by hand, decoded into the JSON form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.apiserver.protobuf.decode import MAGIC, decode_envelope
from tulle.cluster.apiserver.protobuf.numbers import messages
from tulle.cluster.apiserver.protobuf.wire import ProtobufError, fields
from tulle.cluster.apiserver.schema.definitions import definitions


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return MAGIC + field(1, field(1, api_version) + field(2, kind)) + field(2, raw)


def test_zero_values_are_dropped_unless_they_mean_something() -> None:
    container = field(1, "c") + field(2, "nginx") + field(5, "") + field(16, 0) + field(8, b"")
    pod_spec = field(2, container) + field(4, 0) + field(11, 0) + field(5, 0)
    deployment = field(1, field(1, "web")) + field(2, field(1, 0) + field(3, field(2, pod_spec)) + field(7, 0))
    obj = decode_envelope(envelope("apps/v1", "Deployment", deployment))
    assert obj["spec"]["replicas"] == 0
    assert "paused" not in obj["spec"]
    spec = obj["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 0
    assert "hostNetwork" not in spec
    assert spec["containers"] == [{"name": "c", "image": "nginx", "resources": {}}]


def test_maps_bytes_inlined_and_union_fields() -> None:
    secret = field(1, field(1, "s")) + field(2, field(1, "k") + field(2, b"\x00\xff")) + field(3, "Opaque")
    assert decode_envelope(envelope("v1", "Secret", secret))["data"] == {"k": "AP8="}
    port = field(3, 80) + field(4, field(1, 1) + field(2, 0) + field(3, "http"))
    number = field(3, 81) + field(4, field(1, 0) + field(2, 8080) + field(3, ""))
    ports = decode_envelope(envelope("v1", "Service", field(2, field(1, port) + field(1, number))))["spec"]["ports"]
    assert ports == [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8080}]
    volume = field(1, "v") + field(2, field(19, field(1, field(1, "cm")) + field(3, 420)))
    pod = decode_envelope(envelope("v1", "Pod", field(2, field(1, volume))))
    assert pod["spec"]["volumes"] == [{"name": "v", "configMap": {"name": "cm", "defaultMode": 420}}]


def test_times_and_quantities() -> None:
    metadata = field(1, "x") + field(8, field(1, 1_700_000_000) + field(2, 0)) + field(9, b"")
    limits = field(1, field(1, "cpu") + field(2, field(1, "100m")))
    pod = field(1, metadata) + field(2, field(2, field(1, "c") + field(8, limits)))
    obj = decode_envelope(envelope("v1", "Pod", pod))
    assert obj["metadata"] == {"name": "x", "creationTimestamp": "2023-11-14T22:13:20Z"}
    assert obj["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "100m"}}


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        MAGIC + b"\xff",
        envelope("v1", "Unheard", b""),
        envelope("v1", "ConfigMap", field(99, "x")),
        envelope("v1", "ConfigMap", b"\x0a\x7f"),
        envelope("v1", "ConfigMap", field(1, 5)),
        envelope("v1", "ConfigMap", field(1, field(1, b"\xff\xfe"))),
    ],
)
def test_what_is_not_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtobufError):
        decode_envelope(data)


@given(st.binary(max_size=64))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        decode_envelope(envelope("apps/v1", "Deployment", data))
    except ProtobufError:
        return


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, (1 << 64) - 1) | st.binary(max_size=20)), max_size=5))
def test_the_wire_format_round_trips(items: list[tuple[int, int | bytes]]) -> None:
    data = b"".join(field(number, value) for number, value in items)
    assert [(number, value) for number, _, value in fields(data)] == items


def test_every_numbered_field_is_a_field_of_its_definition() -> None:
    inlined = {f.inlined for table in messages().values() for f in table.values() if f.inlined}
    for name, table in messages().items():
        if name in inlined and name not in definitions():
            continue
        properties = definitions()[name].get("properties") or {}
        unknown = [f.name for f in table.values() if f.name and f.name not in properties]
        assert not unknown, f"{name}: {unknown}"
