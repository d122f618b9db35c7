"""``python -m tulle.cni``: the node agent, configured by its environment (see ``settings``)."""

import asyncio
import sys

from tulle.cni.app import main
from tulle.cni.settings import SettingsError, from_environment
from tulle.log import log


def _run() -> int:
    log.configure()
    try:
        settings = from_environment()
    except SettingsError as error:
        print(f"istio-cni-node: {error}", file=sys.stderr)
        return 2
    asyncio.run(main(settings))
    return 0


if __name__ == "__main__":
    sys.exit(_run())
