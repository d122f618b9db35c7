"""Another Secret under a running mesh: taken when proxies can follow, refused with a reason when they cannot."""

import base64
from collections.abc import Callable
from datetime import timedelta

import pytest
from ca_support import Clock, make_csr
from cryptography import x509
from structlog.testing import capture_logs

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import Authority, Roots
from tulle.istiod.ca.plugged import PluggedCa
from tulle.istiod.ca.x509 import Issuer
from tulle.kube.informer import Change
from tulle.kube.objects import Secret

ME = "spiffe://cluster.local/ns/shop/sa/cart"
KEY = ("istio-system", "cacerts")


class Mesh:
    """An authority that follows the Secret; ``taken`` counts the changes it took."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.first = self.root("first")
        self.authority = Authority(Roots((self.first.certificate,), root=self.first), clock=clock)
        self.taken = 0
        self.tell: Callable[[Change[Secret]], None]
        PluggedCa(self, self.authority, self._taken, clock=clock)  # type: ignore[arg-type]

    def on_change(self, fn: Callable[[Change[Secret]], None]) -> None:
        self.tell = fn

    def _taken(self) -> None:
        self.taken += 1

    def root(self, name: str) -> Issuer:
        return shapes.self_signed_root(name, self.clock(), timedelta(days=100))

    def plug_in(self, signer: Issuer, *trusted: Issuer, **other: str) -> list[str]:
        """Put the Secret there; what was logged about it."""
        data = {
            "ca-cert.pem": shapes.pem((signer.certificate,)),
            "ca-key.pem": shapes.key_pem(signer.key).decode(),
            "cert-chain.pem": shapes.pem((signer.certificate,)),
            "root-cert.pem": shapes.pem([one.certificate for one in trusted]),
            "ca-crl.pem": "somebody else's",
            **{key.replace("_", "-") + ".pem": value for key, value in other.items()},
        }
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        return self.change(Secret(data=encoded))

    def change(self, new: Secret | None) -> list[str]:
        with capture_logs() as logs:
            self.tell(Change(KEY, None, new))
        return [f"{line['event']} {line.get('reason', '')}".strip() for line in logs]

    def signs_with(self, signer: Issuer, *trusted: Issuer) -> bool:
        leaf, *_, roots = self.authority.sign(make_csr(), ME)
        x509.load_pem_x509_certificate(leaf.encode()).verify_directly_issued_by(signer.certificate)
        return roots == self.authority.root_pem == shapes.pem([one.certificate for one in trusted])


@pytest.fixture
def mesh(clock: Clock) -> Mesh:
    return Mesh(clock)


def test_the_new_one_signs_and_both_roots_are_trusted_meanwhile(mesh: Mesh) -> None:
    root = mesh.root("second")
    middle = shapes.intermediate(root, "second", mesh.clock(), timedelta(days=50))
    steps: list[tuple[Issuer, tuple[Issuer, ...]]] = [
        (mesh.first, (mesh.first, root)),
        (middle, (mesh.first, root)),
        (middle, (root,)),
    ]
    for count, (signer, trusted) in enumerate(steps, start=1):
        assert mesh.plug_in(signer, *trusted) == ["plugged-in authority taken"]
        assert mesh.signs_with(signer, *trusted)
        assert mesh.taken == count


def test_a_signer_that_proxies_cannot_know_yet_is_taken_with_a_warning(mesh: Mesh) -> None:
    root = mesh.root("second")
    said = mesh.plug_in(root, mesh.first, root)
    assert said == ["plugged-in authority taken", "plugged-in authority is unknown to proxies"]
    assert mesh.signs_with(root, mesh.first, root)


def test_the_same_again_is_no_change(mesh: Mesh) -> None:
    mesh.plug_in(mesh.first, mesh.first)
    assert mesh.plug_in(mesh.first, mesh.first) == []
    assert mesh.taken == 1


def broken(mesh: Mesh) -> list[str]:
    return mesh.plug_in(mesh.first, mesh.first, ca_key="nonsense")


def exchanged(mesh: Mesh) -> list[str]:
    root = mesh.root("second")
    return mesh.plug_in(root, root)


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (broken, "Secret istio-system/cacerts: data['ca-key.pem'] is not an unencrypted PEM private key"),
        (exchanged, "Secret istio-system/cacerts: data['root-cert.pem'] has "),
    ],
)
def test_what_is_refused_changes_nothing(mesh: Mesh, attempt: Callable[[Mesh], list[str]], said: str) -> None:
    mesh.plug_in(mesh.first, mesh.first)
    (line,) = attempt(mesh)
    assert line.startswith(f"plugged-in authority refused {said}")
    assert mesh.signs_with(mesh.first, mesh.first)
    assert mesh.taken == 1


def test_after_a_deletion_the_one_in_use_goes_on(mesh: Mesh) -> None:
    mesh.plug_in(mesh.first, mesh.first)
    assert mesh.change(None) == ["plugged-in authority deleted"]
    assert mesh.signs_with(mesh.first, mesh.first)
