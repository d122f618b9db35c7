"""Where the authority's key lives: in a Secret of istio-system, so that a restarted istiod is the same authority.

Two forms exist, both as elsewhere in the field. ``cacerts`` is put there by whoever runs a PKI of their own and wins
when present; if it cannot be used nothing takes its place, because quietly trusting another root would split the mesh.
``istio-ca-secret`` holds a self-signed root that the first istiod makes; several that start at once agree because
creating an object that exists is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, AuthorityError, Clock, Roots, utc_now
from tulle.istiod.ca.x509 import Issuer, PrivateKey
from tulle.kube.client import Client
from tulle.kube.errors import AlreadyExists, NotFound
from tulle.kube.objects import Secret
from tulle.kube.resources import SECRETS

_log = structlog.get_logger(__name__)

PLUGGED: Final = "cacerts"
SELF_SIGNED: Final = "istio-ca-secret"
_TYPE: Final = "istio.io/ca-root"


async def load_authority(
    client: Client, *, organization: str = "cluster.local", namespace: str = "istio-system", clock: Clock = utc_now
) -> Authority:
    """The mesh's authority, made on first use.

    Raises AuthorityError when a Secret is there and cannot be used, ApiError when the API cannot be asked.
    """
    plugged = await _read(client, namespace, PLUGGED)
    if plugged is not None:
        roots = plugged_roots(plugged, where(namespace, PLUGGED), clock())
    else:
        roots = await _self_signed(client, organization, namespace, clock())
    return Authority(roots, organization=organization, clock=clock)


async def _self_signed(client: Client, organization: str, namespace: str, now: datetime) -> Roots:
    found = await _read(client, namespace, SELF_SIGNED)
    if found is None:
        found = await _create(client, organization, namespace, now)
    return self_signed_roots(found, where(namespace, SELF_SIGNED), now)


async def _create(client: Client, organization: str, namespace: str, now: datetime) -> Mapping[str, bytes]:
    root = shapes.self_signed_root(organization, now, ROOT_LIFETIME)
    data = {"ca-cert.pem": shapes.pem((root.certificate,)).encode(), "ca-key.pem": shapes.key_pem(root.key)}
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SELF_SIGNED, "namespace": namespace},
        "type": _TYPE,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }
    try:
        await client.create(SECRETS, manifest, namespace)
    except AlreadyExists:
        # Another istiod was first: its root is the mesh's.
        other = await _read(client, namespace, SELF_SIGNED)
        if other is None:
            raise
        return other
    _log.info("ca_root_created", secret=f"{namespace}/{SELF_SIGNED}", expires=str(root.expires))
    return data


async def _read(client: Client, namespace: str, name: str) -> Mapping[str, bytes] | None:
    try:
        secret = await client.get(SECRETS, name, namespace)
    except NotFound:
        return None
    return decoded(secret, where(namespace, name))


def where(namespace: str, name: str) -> str:
    """How errors name a Secret."""
    return f"Secret {namespace}/{name}"


def decoded(secret: Secret, where: str) -> Mapping[str, bytes]:
    """The data of a Secret. Raises AuthorityError."""
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in secret.data.items()}
    except binascii.Error as error:
        raise AuthorityError(f"{where}: data is not base64: {error}") from error


def self_signed_roots(data: Mapping[str, bytes], where: str, now: datetime) -> Roots:
    """Read ``ca-cert.pem`` and ``ca-key.pem`` of a self-signed root. Raises AuthorityError."""
    (certificate,) = _certificates(data, "ca-cert.pem", where, exactly=1)
    root = Issuer(certificate, _key(data, "ca-key.pem", where))
    _check_signer(root, "ca-cert.pem", where, now)
    return Roots(trusted=(certificate,), root=root)


def plugged_roots(data: Mapping[str, bytes], where: str, now: datetime) -> Roots:
    """Read a signing certificate somebody else issued: ``ca-cert.pem``, ``ca-key.pem``, ``cert-chain.pem`` (from the
    signing certificate upwards) and ``root-cert.pem``. Raises AuthorityError.
    """
    trusted = _certificates(data, "root-cert.pem", where)
    (certificate,) = _certificates(data, "ca-cert.pem", where, exactly=1)
    chain = _certificates(data, "cert-chain.pem", where)
    above = tuple(cert for cert in chain if cert != certificate and cert not in trusted)
    signer = Issuer(certificate, _key(data, "ca-key.pem", where), above)
    _check_signer(signer, "ca-cert.pem", where, now)
    _check_chain(signer, trusted, where)
    return Roots(trusted=trusted, signer=signer)


def _certificates(data: Mapping[str, bytes], key: str, where: str, *, exactly: int = 0) -> tuple[x509.Certificate, ...]:
    try:
        found = tuple(x509.load_pem_x509_certificates(_entry(data, key, where)))
    except ValueError as error:
        raise AuthorityError(f"{where}: data[{key!r}] is not PEM certificates: {error}") from error
    if exactly and len(found) != exactly:
        raise AuthorityError(f"{where}: data[{key!r}] holds {len(found)} certificates; {exactly} is accepted")
    return found


def _key(data: Mapping[str, bytes], key: str, where: str) -> PrivateKey:
    try:
        found = serialization.load_pem_private_key(_entry(data, key, where), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(f"{where}: data[{key!r}] is not an unencrypted PEM private key") from error
    if not isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise AuthorityError(f"{where}: data[{key!r}] is a {type(found).__name__}; accepted are EC, RSA and Ed25519")
    return found


def _entry(data: Mapping[str, bytes], key: str, where: str) -> bytes:
    value = data.get(key)
    if not value:
        raise AuthorityError(f"{where}: data has no {key!r} (found: {sorted(data)}): add it, or delete the Secret")
    return value


def _check_signer(issuer: Issuer, key: str, where: str, now: datetime) -> None:
    certificate = issuer.certificate
    if not shapes.same_key(certificate, issuer.key):
        raise AuthorityError(f"{where}: data['ca-key.pem'] is not the key of data[{key!r}]")
    try:
        signs = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        signs = False
    if not signs:
        raise AuthorityError(f"{where}: data[{key!r}] is not the certificate of an authority (basicConstraints CA)")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise AuthorityError(
            f"{where}: data[{key!r}] is valid from {certificate.not_valid_before_utc} to "
            f"{certificate.not_valid_after_utc}, and it is {now}: put a valid one there"
        )


def _check_chain(signer: Issuer, trusted: tuple[x509.Certificate, ...], where: str) -> None:
    """Every certificate is issued by the next, the last one by a root (or is one)."""
    links = (signer.certificate, *signer.above)
    for below, issuer in pairwise(links):
        if not _issued(below, issuer):
            raise AuthorityError(
                f"{where}: data['cert-chain.pem']: {below.subject.rfc4514_string()} is not issued by the certificate "
                f"after it, {issuer.subject.rfc4514_string()}"
            )
    if not leads_to(signer, trusted):
        raise AuthorityError(
            f"{where}: {links[-1].subject.rfc4514_string()} is issued by no certificate of data['root-cert.pem']"
        )


def leads_to(signer: Issuer, trusted: tuple[x509.Certificate, ...]) -> bool:
    """Whether the chain of a signing certificate ends at one of these roots."""
    last = (signer.certificate, *signer.above)[-1]
    return last in trusted or any(_issued(last, root) for root in trusted)


def _issued(below: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
