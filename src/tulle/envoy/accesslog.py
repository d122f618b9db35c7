"""Access logs: JSON, one line per connection, written by Envoy itself so that no line passes through Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2

from tulle.envoy.wire import pack

#: Response flags of connections that failed; anything else is a success.
_FAILED: Final = ("UF", "UC", "UO", "UH", "NC", "NR", "URX", "UT", "LR", "UR", "DPE", "UPE", "DT", "SI")


def stdout_json(
    fields: Mapping[str, str], *, log_filter: accesslog_pb2.AccessLogFilter | None = None
) -> accesslog_pb2.AccessLog:
    """A log on Envoy's stdout; `fields` maps keys to format strings, keys with an empty value are left out of lines."""
    config = stream_pb2.StdoutAccessLog()
    config.log_format.json_format.update(dict(fields))
    config.log_format.omit_empty_values = True
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(config))
    if log_filter is not None:
        log.filter.CopyFrom(log_filter)
    return log


def only_failed() -> accesslog_pb2.AccessLogFilter:
    """Connections that ended by a failure of the other side or of the mesh."""
    return accesslog_pb2.AccessLogFilter(
        response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=_FAILED),
    )
