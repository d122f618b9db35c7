"""``python -m tulle.cni``: the node agent, configured by its environment (see ``settings``)."""

import asyncio
import sys

import structlog

from tulle.cni.app import main
from tulle.cni.settings import SettingsError, from_environment


def _run() -> int:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ]
    )
    try:
        settings = from_environment()
    except SettingsError as error:
        print(f"istio-cni-node: {error}", file=sys.stderr)
        return 2
    asyncio.run(main(settings))
    return 0


if __name__ == "__main__":
    sys.exit(_run())
