"""Fixtures: a clock under the test's hand, and an authority that goes by it."""

import pytest
from ca_support import Clock

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, Roots


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(clock: Clock) -> Authority:
    root = shapes.self_signed_root("cluster.local", clock(), ROOT_LIFETIME)
    return Authority(Roots((root.certificate,), root=root), clock=clock)
