"""Signing: from a proved identity and a request's key to a certificate chain.

The root's key may be in use for years and by several istiods, so it does not sign workloads. Each process makes an
intermediate of its own, held in memory only and replaced well before it expires. A signing certificate that somebody
plugged in is used as it is, and may be replaced by another while the mesh runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.x509 import Issuer

ROOT_LIFETIME: Final = timedelta(days=3650)
INTERMEDIATE_LIFETIME: Final = timedelta(days=90)
SERVING_LIFETIME: Final = timedelta(hours=24)
MAX_LIFETIME: Final = timedelta(hours=24)
MIN_LIFETIME: Final = timedelta(seconds=10)
MAX_CSR_BYTES: Final = 16 * 1024

Clock = Callable[[], datetime]


class CsrError(ValueError):
    """A signing request that is refused; the message says what was found and what is accepted."""


class AuthorityError(Exception):
    """The authority itself cannot be used; the message names the object and field at fault and what to do."""


@dataclass(frozen=True, slots=True)
class Roots:
    """What a process signs with: the self-signed ``root`` whose key it holds, or a plugged-in ``signer``."""

    trusted: tuple[x509.Certificate, ...]
    root: Issuer | None = None
    signer: Issuer | None = None

    def same_as(self, other: Roots) -> bool:
        """Whether both trust and sign alike (keys are known by their certificates)."""
        return _certificates(self) == _certificates(other)


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """A server's key and certificate chain (PEM), and when to replace it."""

    key: bytes
    chain: bytes
    refresh_at: datetime


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Authority:
    """Signs SVIDs and serving certificates. ``organization`` names the mesh in the certificates above them."""

    def __init__(self, roots: Roots, *, organization: str = "cluster.local", clock: Clock = utc_now) -> None:
        self._roots = roots
        self._organization = organization
        self._clock = clock
        self._issuer: Issuer | None = None
        self.root_pem = shapes.pem(roots.trusted)

    @property
    def roots(self) -> Roots:
        """What it signs with now."""
        return self._roots

    def expiry(self) -> tuple[float, float]:
        """When the first root and what signs now expire, in Unix seconds; 0 for what is not there (yet)."""
        issuer = self._roots.signer or self._issuer
        root = min(certificate.not_valid_after_utc for certificate in self._roots.trusted)
        return root.timestamp(), issuer.expires.timestamp() if issuer is not None else 0.0

    def replace(self, roots: Roots) -> None:
        """Sign with ``roots`` from now on. Raises AuthorityError, and goes on as before, when they cannot sign now."""
        before = self._roots, self._issuer
        self._roots, self._issuer = roots, None
        try:
            self._current(self._clock())
        except AuthorityError:
            self._roots, self._issuer = before
            raise
        self.root_pem = shapes.pem(roots.trusted)

    def sign(self, csr_pem: bytes, identity: str, lifetime: timedelta | None = None) -> tuple[str, ...]:
        """A certificate for ``identity`` on the request's key; the chain as PEM, leaf first, the roots as last element.

        The key is all that is taken from the request. Names in it must be exactly ``identity`` or none; a request to be
        an authority is refused; whatever else it asks for is left out (E4). ``lifetime`` is bounded to
        [10 s, 24 h], and to the issuer's own.

        Raises CsrError, and AuthorityError when no valid issuer is there.
        """
        public_key = _checked(csr_pem, identity)
        now = self._clock()
        issuer = self._current(now)
        wanted = MAX_LIFETIME if lifetime is None else max(MIN_LIFETIME, min(lifetime, MAX_LIFETIME))
        leaf = shapes.svid(issuer, identity, public_key, now, min(now + wanted, issuer.expires))
        return self._chain(leaf, issuer)

    def serving(self, hosts: Sequence[str]) -> ServingCertificate:
        """A key and certificate for a server that is reached under ``hosts`` (DNS names, IP addresses)."""
        now = self._clock()
        issuer = self._current(now)
        key = shapes.new_key()
        expires = min(now + SERVING_LIFETIME, issuer.expires)
        leaf = shapes.serving(issuer, hosts, key.public_key(), now, expires)
        chain = shapes.pem((leaf, issuer.certificate, *issuer.above))
        return ServingCertificate(shapes.key_pem(key), chain.encode(), now + (expires - now) / 2)

    def _chain(self, leaf: x509.Certificate, issuer: Issuer) -> tuple[str, ...]:
        below_root = (leaf, issuer.certificate, *issuer.above)
        trusted = set(self._roots.trusted)
        return (*(shapes.pem((cert,)) for cert in below_root if cert not in trusted), self.root_pem)

    def _current(self, now: datetime) -> Issuer:
        issuer = self._roots.signer or self._own(now)
        starts = max(cert.not_valid_before_utc for cert in (issuer.certificate, *issuer.above))
        if not starts <= now < issuer.expires:
            raise AuthorityError(
                f"the mesh's signing certificate {issuer.certificate.subject.rfc4514_string()} is valid from {starts} "
                f"to {issuer.expires}, and it is {now}: replace Secret cacerts (or istio-ca-secret and restart istiod)"
            )
        return issuer

    def _own(self, now: datetime) -> Issuer:
        root = self._roots.root
        if root is None:
            raise AuthorityError("neither a root with its key nor a signing certificate was given")
        if self._issuer is None or now >= self._issuer.expires - INTERMEDIATE_LIFETIME / 3:
            self._issuer = shapes.intermediate(root, self._organization, now, INTERMEDIATE_LIFETIME)
        return self._issuer


def _certificates(roots: Roots) -> tuple[object, ...]:
    signers = (roots.root, roots.signer)
    return (roots.trusted, *((one.certificate, one.above) if one is not None else None for one in signers))


def _checked(csr_pem: bytes, identity: str) -> CertificatePublicKeyTypes:
    if len(csr_pem) > MAX_CSR_BYTES:
        raise CsrError(f"the request has {len(csr_pem)} bytes; at most {MAX_CSR_BYTES} are accepted")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        valid = csr.is_signature_valid
        public_key = csr.public_key()
        extensions = csr.extensions
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.DuplicateExtension) as error:
        raise CsrError(f"the request is not a PEM PKCS#10 request: {error}") from error
    if not valid:
        raise CsrError("the request's signature is not of the key in it")
    _check_key(public_key)
    _check_extensions(extensions, identity)
    return public_key


def _check_key(key: object) -> None:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in {"secp256r1", "secp384r1"}:
            return
        case rsa.RSAPublicKey() if 2048 <= key.key_size <= 4096:
            return
        case ed25519.Ed25519PublicKey():
            return
    found = getattr(getattr(key, "curve", None), "name", "") or f"{type(key).__name__} {getattr(key, 'key_size', '')}"
    raise CsrError(f"the request's key is {found.strip()}; accepted are EC P-256 or P-384, RSA 2048 to 4096, Ed25519")


def _check_extensions(extensions: x509.Extensions, identity: str) -> None:
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            found = [str(getattr(name, "value", name)) for name in value]
            if list(value) != [x509.UniformResourceIdentifier(identity)]:
                raise CsrError(f"the request asks for the names {found}; the caller may have only {identity!r}")
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            raise CsrError("the request asks to be a certificate authority")
        elif isinstance(value, x509.KeyUsage) and value.key_cert_sign:
            raise CsrError("the request asks for a key that signs certificates")
