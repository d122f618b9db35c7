"""The three lines of protobuf plumbing that every builder needs.

Envoy's configuration is messages inside `Any` inside messages.  A few extensions in use are newer than the published
Python protobufs; those are written as `TypedStruct`, which Envoy decodes by type name and checks like any other message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from google.protobuf import any_pb2, duration_pb2, struct_pb2
from google.protobuf.message import Message
from xds.type.v3 import typed_struct_pb2

_PREFIX: Final = "type.googleapis.com/"


def pack(message: Message) -> any_pb2.Any:
    """`message` as an Any, encoded deterministically so that equal configuration is equal bytes."""
    packed = any_pb2.Any(type_url=_PREFIX + message.DESCRIPTOR.full_name)
    packed.value = message.SerializeToString(deterministic=True)
    return packed


def pack_untyped(type_name: str, value: Mapping[str, Any]) -> any_pb2.Any:
    """A message that has no Python class here, by its full name and its content in protobuf's JSON form."""
    body = struct_pb2.Struct()
    body.update(dict(value))
    return pack(typed_struct_pb2.TypedStruct(type_url=_PREFIX + type_name, value=body))


def extension(name: str, message: Message) -> extension_pb2.TypedExtensionConfig:
    """A named extension with its configuration."""
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(message))


def seconds(value: float) -> duration_pb2.Duration:
    """A duration given in seconds."""
    whole = int(value)
    return duration_pb2.Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def from_ads() -> config_source_pb2.ConfigSource:
    """The config source "the ADS stream of the bootstrap", waited for without limit."""
    source = config_source_pb2.ConfigSource(resource_api_version=2)
    source.ads.SetInParent()
    source.initial_fetch_timeout.CopyFrom(seconds(0))
    return source


def from_own_stream(cluster: str) -> config_source_pb2.ConfigSource:
    """A config source with a gRPC stream of its own to the xDS server `cluster`.

    For clusters on demand, which are not to be mixed with "all clusters" of the ADS stream.
    """
    source = config_source_pb2.ConfigSource(resource_api_version=2)
    api = source.api_config_source
    api.api_type = config_source_pb2.ApiConfigSource.DELTA_GRPC
    api.transport_api_version = 2
    api.set_node_on_first_message_only = True
    api.grpc_services.add().envoy_grpc.cluster_name = cluster
    return source
