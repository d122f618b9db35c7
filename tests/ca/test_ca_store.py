"""The authority's own key: kept in a Secret, agreed between several istiods, or plugged in."""

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest
from ca_support import Clock, make_csr
from cryptography import x509

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import AuthorityError
from tulle.istiod.ca.store import load_authority, plugged_roots
from tulle.kube.errors import AlreadyExists, NotFound
from tulle.kube.objects import ObjectMeta, Secret

ME = "spiffe://cluster.local/ns/shop/sa/cart"


class Api:
    """The two requests on Secrets that the store makes, with a pause in each for others to come between."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], Secret] = {}

    async def get(self, res: Any, name: str, namespace: str) -> Secret:
        await asyncio.sleep(0)
        if (namespace, name) not in self.secrets:
            raise NotFound(404, "NotFound", f"secrets {name!r} not found")
        return self.secrets[namespace, name]

    async def create(self, res: Any, obj: dict[str, Any], namespace: str) -> Secret:
        await asyncio.sleep(0)
        key = (namespace, obj["metadata"]["name"])
        if key in self.secrets:
            raise AlreadyExists(409, "AlreadyExists", "secrets exists")
        self.secrets[key] = Secret(metadata=ObjectMeta(name=key[1], namespace=namespace), data=obj["data"])
        return self.secrets[key]

    def put(self, name: str, data: dict[str, bytes]) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        self.secrets["istio-system", name] = Secret(data=encoded)


def pki(clock: Clock) -> dict[str, bytes]:
    root = shapes.self_signed_root("corp", clock(), timedelta(days=100))
    middle = shapes.intermediate(root, "corp", clock(), timedelta(days=50))
    return {
        "ca-cert.pem": shapes.pem((middle.certificate,)).encode(),
        "ca-key.pem": shapes.key_pem(middle.key),
        "cert-chain.pem": shapes.pem((middle.certificate, root.certificate)).encode(),
        "root-cert.pem": shapes.pem((root.certificate,)).encode(),
    }


async def test_a_restart_keeps_the_root(clock: Clock) -> None:
    api = Api()
    first = await load_authority(api, clock=clock)
    second = await load_authority(api, clock=clock)
    assert first.root_pem == second.root_pem


async def test_istiods_that_start_together_agree(clock: Clock) -> None:
    api = Api()
    several = await asyncio.gather(*(load_authority(api, clock=clock) for _ in range(5)))
    assert len({authority.root_pem for authority in several}) == 1


async def test_plugged_in_certificate_signs(clock: Clock) -> None:
    api = Api()
    data = pki(clock)
    api.put("cacerts", data)
    authority = await load_authority(api, clock=clock)
    leaf, middle, root = authority.sign(make_csr(), ME)
    assert middle.encode() == data["ca-cert.pem"]
    assert root.encode() == data["root-cert.pem"]
    x509.load_pem_x509_certificate(leaf.encode()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(middle.encode())
    )
    assert list(api.secrets) == [("istio-system", "cacerts")]


async def test_plugged_in_root_signs_directly(clock: Clock) -> None:
    root = shapes.self_signed_root("corp", clock(), timedelta(days=100))
    certificate = shapes.pem((root.certificate,)).encode()
    api = Api()
    api.put(
        "cacerts",
        {
            "ca-cert.pem": certificate,
            "ca-key.pem": shapes.key_pem(root.key),
            "cert-chain.pem": certificate,
            "root-cert.pem": certificate,
        },
    )
    chain = (await load_authority(api, clock=clock)).sign(make_csr(), ME)
    assert len(chain) == 2


@pytest.mark.parametrize("missing", ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"])
def test_plugged_in_without_a_part_names_it(clock: Clock, missing: str) -> None:
    data = pki(clock)
    del data[missing]
    with pytest.raises(AuthorityError, match=f"Secret a/cacerts.*{missing}"):
        plugged_roots(data, "Secret a/cacerts", clock())


@pytest.mark.parametrize(
    ("key", "taken_from_another", "said"),
    [
        ("ca-key.pem", True, "not the key of"),
        ("root-cert.pem", True, "issued by no certificate"),
        ("ca-cert.pem", False, "not PEM"),
        ("ca-key.pem", False, "not an unencrypted PEM"),
    ],
)
def test_plugged_in_that_does_not_fit(clock: Clock, key: str, taken_from_another: bool, said: str) -> None:
    data = pki(clock)
    if key == "root-cert.pem" and taken_from_another:
        data["cert-chain.pem"] = data["ca-cert.pem"]
    data[key] = pki(clock)[key] if taken_from_another else b"nonsense"
    with pytest.raises(AuthorityError, match=said):
        plugged_roots(data, "Secret a/cacerts", clock())


async def test_an_unusable_plugged_in_secret_is_not_replaced(clock: Clock) -> None:
    api = Api()
    api.put("cacerts", {"ca-cert.pem": b"nonsense"})
    with pytest.raises(AuthorityError):
        await load_authority(api, clock=clock)
    assert list(api.secrets) == [("istio-system", "cacerts")]


async def test_a_leaf_is_no_authority(clock: Clock) -> None:
    api = Api()
    data = pki(clock)
    key = shapes.new_key()
    middle = shapes.Issuer(
        x509.load_pem_x509_certificate(data["ca-cert.pem"]),
        pytest.importorskip("cryptography.hazmat.primitives.serialization").load_pem_private_key(
            data["ca-key.pem"], None
        ),
    )
    leaf = shapes.svid(middle, ME, key.public_key(), clock(), clock() + timedelta(hours=1))
    api.put("cacerts", {**data, "ca-cert.pem": shapes.pem((leaf,)).encode(), "ca-key.pem": shapes.key_pem(key)})
    with pytest.raises(AuthorityError, match="basicConstraints"):
        await load_authority(api, clock=clock)


async def test_an_expired_root_is_said_to_be(clock: Clock) -> None:
    api = Api()
    await load_authority(api, clock=clock)
    clock.advance(3651 * 86400)
    with pytest.raises(AuthorityError, match=r"istio-ca-secret.*valid from"):
        await load_authority(api, clock=clock)
