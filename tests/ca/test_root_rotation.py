"""Another root under a running mesh, in three steps: trust both, sign by the new one, trust the new one only."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from tests.e2e.mesh import Mesh
from tests.support.live_mesh import populate, running
from tests.support.revoking import revocation_list
from tulle.cli.lesson import FROM_TEST, OK, Outcome
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, utc_now
from tulle.istiod.ca.x509 import Issuer

pytestmark = pytest.mark.e2e

OF_ISTIOD = "kubectl get cm istio-ca-root-cert -n hello -o jsonpath='{.data.root-cert\\.pem}' | grep -c BEGIN"
ALLOW_NOBODY = (
    '{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", '
    '"metadata": {"name": "p", "namespace": "hello"}, "spec": {}}'
)
SIGNING = "kubectl logs -n istio-system deployment/istiod | grep -c 'plugged-in authority taken'"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("roots")) as made:
        populate(made)
        made.ok("istioctl waypoint apply -n hello --enroll-namespace --wait")
        made.settles(FROM_TEST, OK)
        yield made


def self_signed(mesh: Mesh) -> Issuer:
    """The root that the mesh made for itself."""
    secret = json.loads(mesh.ok("kubectl get secret istio-ca-secret -n istio-system -o json"))
    decoded = {
        name: subprocess.run(["base64", "-d"], input=value.encode(), capture_output=True, check=True).stdout
        for name, value in secret["data"].items()
    }
    key = serialization.load_pem_private_key(decoded["ca-key.pem"], None)
    return Issuer(load_pem_x509_certificate(decoded["ca-cert.pem"]), key)  # type: ignore[arg-type]


def plug_in(mesh: Mesh, nth: int, signer: Issuer, *trusted: Issuer) -> None:
    """What somebody with a PKI of their own does: the Secret, which istiod takes as it runs, and the requests go on."""
    certificate = shapes.pem((signer.certificate,))
    files = {
        "ca-cert.pem": certificate,
        "ca-key.pem": shapes.key_pem(signer.key).decode(),
        "cert-chain.pem": certificate,
        "root-cert.pem": "".join(shapes.pem((one.certificate,)) for one in trusted),
    }
    for name, text in files.items():
        (mesh.folder / name).write_text(text)
    given = " ".join(f"--from-file={name}" for name in files)
    mesh.ok(
        f"kubectl create secret generic cacerts -n istio-system {given} --dry-run=client -o yaml | kubectl apply -f -"
    )
    mesh.settles(SIGNING, Outcome(0, str(nth)))
    for _ in range(2):
        mesh.settles(FROM_TEST, OK)
    mesh.settles(OF_ISTIOD, Outcome(0, str(len(trusted))))


def renew_waypoint(mesh: Mesh) -> None:
    """Half of its life later the waypoint has another certificate; a new pod has one at once."""
    mesh.ok("kubectl rollout restart -n hello deployment/waypoint")
    mesh.ok("kubectl rollout status -n hello deployment/waypoint --timeout=120s")


def renew_ztunnel(mesh: Mesh) -> None:
    mesh.ok("kubectl rollout restart -n istio-system daemonset/ztunnel")
    mesh.ok("kubectl rollout status -n istio-system daemonset/ztunnel --timeout=120s")


def test_traffic_goes_on_while_the_root_changes(mesh: Mesh) -> None:
    old = self_signed(mesh)
    new = shapes.self_signed_root("another", utc_now(), ROOT_LIFETIME)
    for nth, (signer, trusted) in enumerate(((old, (old, new)), (new, (old, new)), (new, (new,))), start=1):
        plug_in(mesh, nth, signer, *trusted)
        renew_ztunnel(mesh)
        # One side has renewed and the other has not.
        mesh.settles(FROM_TEST, OK)
        renew_waypoint(mesh)
        mesh.settles(FROM_TEST, OK)
    assert roots(mesh) == {new.certificate.serial_number}
    # The API server trusts istiod's webhook by the new root.
    mesh.ok(f"echo '{ALLOW_NOBODY}' | kubectl apply --dry-run=server -f -")
    revoke(mesh, new)


def revoke(mesh: Mesh, signer: Issuer) -> None:
    """A client's certificate is revoked: every proxy is told without a restart, and the client goes on with another."""
    before = serial(mesh)
    lists = base64.b64encode(revocation_list(signer, int(before)).encode()).decode()
    mesh.ok(f"kubectl patch secret cacerts -n istio-system -p '{json.dumps({'data': {'ca-crl.pem': lists}})}'")
    kept = "kubectl exec -n hello deployment/waypoint -- cat /var/run/secrets/istio-crl/ca-crl.pem | grep -c BEGIN"
    mesh.settles(kept, Outcome(0, "1"))
    deadline = time.monotonic() + 30
    while serial(mesh) == before:
        assert time.monotonic() < deadline
    mesh.settles(FROM_TEST, OK)


def serial(mesh: Mesh) -> str:
    shown = json.loads(mesh.ok("istioctl ztunnel-config certificate -o json"))
    return next(one["certChain"][0]["serialNumber"] for one in shown if "/ns/test/" in one["identity"])


def roots(mesh: Mesh) -> set[int]:
    """The serial numbers of the roots that ztunnel trusts for its workloads."""
    shown = json.loads(mesh.ok("istioctl ztunnel-config certificate -o json"))
    found = [base64.b64decode(root["pem"]) for one in shown for root in one["rootCerts"]]
    return {load_pem_x509_certificate(pem).serial_number for pem in found}
