"""The certificate shapes in use, and nothing else of X.509.

Four exist: a root, an intermediate that signs for it, a workload's SVID, and istiod's own serving certificate. Each is
one function here, so that what a certificate of this mesh can contain is read in one place.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

#: How far back a certificate's validity starts, for clocks that are behind.
BACKDATE: Final = timedelta(minutes=2)

_SERVING: Final = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate that signs others, with its key and the certificates above it (the root not among them)."""

    certificate: x509.Certificate
    key: PrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def expires(self) -> datetime:
        """When the first certificate of the chain expires."""
        return min(cert.not_valid_after_utc for cert in (self.certificate, *self.above))


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh EC P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """An unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificates: Iterable[x509.Certificate]) -> str:
    """PEM of certificates, one after the other."""
    return "".join(cert.public_bytes(serialization.Encoding.PEM).decode() for cert in certificates)


def same_key(certificate: x509.Certificate, key: PrivateKey) -> bool:
    """Whether the certificate is about this key."""
    return certificate.public_key() == key.public_key()


def self_signed_root(organization: str, now: datetime, lifetime: timedelta) -> Issuer:
    """A new root. Its name is random in part, so that two meshes' roots are never taken for each other."""
    key = new_key()
    name = _name(organization, f"tulle root {x509.random_serial_number() >> 96:016x}")
    builder = _builder(name, name, key.public_key(), now, now + lifetime)
    builder = _authority(builder, key.public_key(), path_length=None)
    return Issuer(builder.sign(key, _digest(key)), key)


def intermediate(root: Issuer, organization: str, now: datetime, lifetime: timedelta) -> Issuer:
    """A new signing certificate below ``root``, which may sign leaves only. Never outlives the root."""
    key = new_key()
    name = _name(organization, f"tulle intermediate {x509.random_serial_number() >> 96:016x}")
    expires = min(now + lifetime, root.expires)
    builder = _builder(name, root.certificate.subject, key.public_key(), now, expires)
    builder = _authority(builder, key.public_key(), path_length=0).add_extension(_issuer_key_id(root), critical=False)
    return Issuer(builder.sign(root.key, _digest(root.key)), key)


def svid(
    issuer: Issuer, identity: str, public_key: CertificatePublicKeyTypes, now: datetime, expires: datetime
) -> x509.Certificate:
    """A workload's certificate: one URI name and no subject (SPIFFE X.509-SVID, sections 2 and 4)."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
    return _leaf(issuer, names, public_key, now, expires)


def serving(
    issuer: Issuer, hosts: Sequence[str], public_key: CertificatePublicKeyTypes, now: datetime, expires: datetime
) -> x509.Certificate:
    """A server's certificate for DNS names and IP addresses."""
    names = x509.SubjectAlternativeName([_host(host) for host in hosts])
    return _leaf(issuer, names, public_key, now, expires)


def _leaf(
    issuer: Issuer,
    names: x509.SubjectAlternativeName,
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    expires: datetime,
) -> x509.Certificate:
    builder = _builder(x509.Name([]), issuer.certificate.subject, public_key, now, expires)
    builder = (
        builder.add_extension(names, critical=True)  # the subject is empty (RFC 5280, 4.2.1.6)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(rsa_key=isinstance(public_key, rsa.RSAPublicKey)), critical=True)
        .add_extension(_SERVING, critical=False)
        .add_extension(_issuer_key_id(issuer), critical=False)
    )
    return builder.sign(issuer.key, _digest(issuer.key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: CertificatePublicKeyTypes,
    now: datetime,
    expires: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(expires)
    )


def _authority(
    builder: x509.CertificateBuilder, public_key: ec.EllipticCurvePublicKey, path_length: int | None
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs: bool = False, rsa_key: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_encipherment=rsa_key,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key_id(issuer: Issuer) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _name(organization: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _digest(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
