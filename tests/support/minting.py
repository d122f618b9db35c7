"""Certificates of any shape, signed with the mesh's own key: what a proxy must refuse although its chain is good."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*names: str) -> x509.KeyUsage:
    """A KeyUsage with exactly these bits."""
    return x509.KeyUsage(**{name: name in names for name in KEY_USAGES})


@dataclass(frozen=True)
class Shape:
    """A leaf. The defaults are a proper X.509-SVID; None leaves an extension out."""

    uris: tuple[str, ...] = ("spiffe://cluster.local/ns/test/sa/minted",)
    dns: tuple[str, ...] = ()
    begin: timedelta = timedelta(minutes=-2)
    end: timedelta = timedelta(hours=1)
    ca: bool | None = False
    key_usage: x509.KeyUsage | None = field(default_factory=lambda: usage("digital_signature"))
    extended: tuple[ObjectIdentifier, ...] | None = BOTH


@dataclass(frozen=True)
class Authority:
    """A root and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> Authority:
        loaded = serialization.load_pem_private_key(key, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate(certificate), loaded)

    @classmethod
    def make(cls) -> Authority:
        """Another root, which nobody trusts."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another root")])
        builder = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    def mint(self, shape: Shape) -> Minted:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + shape.begin)
            .not_valid_after(now + shape.end)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in shape.uris]
        names += [x509.DNSName(name) for name in shape.dns]
        extensions: list[tuple[x509.ExtensionType, bool]] = []
        extensions.append(
            (x509.SubjectAlternativeName(names or [x509.IPAddress(ipaddress.IPv4Address("10.0.0.1"))]), True)
        )
        if shape.ca is not None:
            extensions.append((x509.BasicConstraints(ca=shape.ca, path_length=None), True))
        if shape.key_usage is not None:
            extensions.append((shape.key_usage, True))
        if shape.extended is not None:
            extensions.append((x509.ExtendedKeyUsage(shape.extended), False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return Minted(builder.sign(self.key, hashes.SHA256()), key, self.certificate)


@dataclass(frozen=True)
class Minted:
    """A leaf, its key, and the root above it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    root: x509.Certificate

    def client(self, trusted: x509.Certificate) -> ssl.SSLContext:
        """A client's side of mutual TLS with this certificate: TLS 1.3, ALPN h2; names are the test's to look at."""
        with self._files() as (chain, key):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname = False
            context.load_cert_chain(chain, key)
            context.load_verify_locations(cadata=_pem(trusted))
            context.set_alpn_protocols(["h2"])
            return context

    @contextlib.contextmanager
    def _files(self) -> Iterator[tuple[Path, Path]]:
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with tempfile.TemporaryDirectory(prefix="tk-wire-") as folder:
            chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
            chain.write_text(_pem(self.certificate) + _pem(self.root))
            key.write_bytes(private)
            yield chain, key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def self_signed() -> bytes:
    """A root that has signed nothing of the mesh."""
    return _pem(Authority.make().certificate).encode()
