"""`istioctl experimental describe` of every kind of pod and Service there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.istioctl import golden
from tulle.cli.describe import of_pod, of_service
from tulle.cli.explain import documents, world
from tulle.cli.explain.documents import InputError
from tulle.cli.explain.world import World

MANIFESTS = Path(__file__).with_name("world.yaml")


@pytest.fixture(scope="module")
def shop() -> World:
    return world.live(documents.load([str(MANIFESTS)], None))


@pytest.mark.parametrize("pod", ["shop/cart", "shop/cart-2", "shop/wp-1", "out/new"])
def test_pods(shop: World, pod: str) -> None:
    golden.matches(f"describe-pod-{pod.replace('/', '-')}", "\n".join(of_pod(shop, *pod.split("/"))))


@pytest.mark.parametrize("service", ["cart", "other", "alias"])
def test_services(shop: World, service: str) -> None:
    golden.matches(f"describe-service-{service}", "\n".join(of_service(shop, "shop", service)))


def test_what_does_not_exist(shop: World) -> None:
    with pytest.raises(InputError, match=r"pod shop/no does not exist; name it as NAME.NAMESPACE, or add -n"):
        list(of_pod(shop, "shop", "no"))
    with pytest.raises(InputError, match="service out/no does not exist"):
        list(of_service(shop, "out", "no"))
