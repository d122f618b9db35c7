"""`python -m tulle.waypoint`: run the waypoint that the environment describes until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
import uvloop

from tulle.waypoint.agent import Waypoint
from tulle.waypoint.settings import InvalidEnvironmentError, Settings, load


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Waypoint(settings).run(stop)


def main() -> int:
    """Exit code 0 after a clean stop, 2 when the environment cannot be used."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    try:
        settings = load()
    except InvalidEnvironmentError as error:
        structlog.get_logger("tulle.waypoint").error("cannot start", reason=str(error))
        return 2
    uvloop.run(_run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
