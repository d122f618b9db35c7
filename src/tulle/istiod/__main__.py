"""`python -m tulle.istiod`: run istiod as the environment describes it, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop

from tulle.istiod.app import Istiod
from tulle.istiod.settings import SettingError, Settings
from tulle.kube.client import Client
from tulle.kube.config import ConfigError
from tulle.log import log


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Client.load(component="istiod") as client:
        await Istiod(client, settings).run(stop)


def main() -> int:
    """Exit code 0 after a clean stop, 2 when the environment cannot be used."""
    log.configure(level=logging.INFO)
    try:
        settings = Settings.from_environment()
        log.set_level(settings.log_level)
        uvloop.run(_run(settings))
    except (SettingError, ConfigError) as error:
        log.error("cannot start", reason=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
