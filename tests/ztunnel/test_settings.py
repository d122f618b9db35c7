"""The environment of the node proxy."""

from __future__ import annotations

import pytest

from tulle.envoy.environment import InvalidEnvironmentError
from tulle.ztunnel.settings import load

NEEDED = {"POD_NAME": "ztunnel-1", "POD_NAMESPACE": "istio-system", "NODE_NAME": "n1", "INSTANCE_IP": "10.0.0.1"}


def test_defaults() -> None:
    settings = load(NEEDED)
    assert settings.node_id == "ztunnel~10.0.0.1~ztunnel-1.istio-system~istio-system.svc.cluster.local"
    assert settings.xds == settings.ca == "istiod.istio-system.svc:15012"
    assert settings.secret_ttl == 86400


@pytest.mark.parametrize("missing", ["POD_NAME", "POD_NAMESPACE", "NODE_NAME"])
def test_what_must_be_there(missing: str) -> None:
    with pytest.raises(InvalidEnvironmentError, match=missing):
        load({name: value for name, value in NEEDED.items() if name != missing})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("XDS_ADDRESS", "http://istiod:15012"),
        ("CA_ADDRESS", "istiod"),
        ("SECRET_TTL", "soon"),
        ("ADMIN_PORT", "-1"),
        ("CONNECTION_TERMINATION_DEADLINE", "5"),
    ],
)
def test_values_that_cannot_be_used(name: str, value: str) -> None:
    with pytest.raises(InvalidEnvironmentError, match=name):
        load({**NEEDED, name: value})


@pytest.mark.parametrize(("value", "seconds"), [("100ms", 0.1), ("5s", 5), ("2m", 120), ("1h", 3600)])
def test_durations(value: str, seconds: float) -> None:
    assert load({**NEEDED, "CONNECTION_TERMINATION_DEADLINE": value}).drain_seconds == seconds


@pytest.mark.parametrize(("grace", "seconds"), [("30", 25), ("11", 6), ("10", 5), ("1", 1)])
def test_draining_leaves_a_rest_of_the_grace_period(grace: str, seconds: float) -> None:
    assert load({**NEEDED, "TERMINATION_GRACE_PERIOD_SECONDS": grace}).drain_seconds == seconds
