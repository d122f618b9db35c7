"""Which columns and which row each built-in kind has."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from tulle.cluster.apiserver.table.cells import age
from tulle.cluster.apiserver.table.layout import Layout, columns
from tulle.cluster.apiserver.table.misc import MISC
from tulle.cluster.apiserver.table.network import NETWORK
from tulle.cluster.apiserver.table.pods import PODS
from tulle.cluster.apiserver.table.workloads import WORKLOADS


def _name_and_age(obj: dict[str, Any], now: datetime.datetime) -> list[Any]:
    return [obj.get("metadata", {}).get("name", ""), age(obj, now)]


NAME_AND_AGE = Layout(columns("Name", "Age"), _name_and_age)
ROWS: Mapping[tuple[str, str], Layout] = {**PODS, **WORKLOADS, **NETWORK, **MISC}
