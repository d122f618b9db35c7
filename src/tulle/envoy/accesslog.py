"""Access logs: JSON, one line per event of a connection, on Envoy's stdout, which its owner reads or passes on."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2

from tulle.envoy.wire import pack


def stdout_json(fields: Mapping[str, str]) -> accesslog_pb2.AccessLog:
    """A log on Envoy's stdout; `fields` maps keys to format strings, keys with an empty value are left out of lines."""
    config = stream_pb2.StdoutAccessLog()
    config.log_format.json_format.update(dict(fields))
    config.log_format.omit_empty_values = True
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(config))
