"""Settings that hold for every test."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tulle.log import log

# In CI the same examples every time, so that a change is judged by what it changes; elsewhere Hypothesis keeps searching.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "search")


@pytest.fixture
def log_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is JSON on the standard output, as of a program that runs for long, until the end of the test."""
    monkeypatch.setattr(log, "output", log.output)
    log.configure()
