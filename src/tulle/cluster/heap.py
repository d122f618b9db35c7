"""What keeps a Python process from growing although it holds no more than before: settings of glibc's heap, in mallopt(3)'s words.

Python runs one thread at a time, so what each thread keeps of memory for itself only scatters it. And every TLS connection has a
buffer of 256 KB, of which it touches the first few: in the heap, where glibc puts them once it has seen one freed, connections that
come and go touch other pages each time, until every page is. A mapping of its own goes away with its connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENVIRONMENT: Final[Mapping[str, str]] = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(64 << 10)}
