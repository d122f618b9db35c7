"""`python -m tulle.istiod`: run istiod as the environment describes it, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import structlog
import uvloop

from tulle.istiod.app import Istiod
from tulle.istiod.settings import SettingError, Settings
from tulle.kube.client import Client
from tulle.kube.config import ConfigError


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Client.load(component="istiod") as client:
        await Istiod(client, settings).run(stop)


def main() -> int:
    """Exit code 0 after a clean stop, 2 when the environment cannot be used."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    try:
        settings = Settings.from_environment()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(settings.log_level))
        uvloop.run(_run(settings))
    except (SettingError, ConfigError) as error:
        structlog.get_logger("tulle.istiod").error("cannot start", reason=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
