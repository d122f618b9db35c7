"""`$(NAME)` in commands, arguments and environment values: a name that is not known stays as it is, `$$` is a dollar
sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PATTERN = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes' own rule (`k8s.io/kubernetes/third_party/forked/golang/expansion`)."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        return values.get(name, match[0])

    return _PATTERN.sub(replace, text)
