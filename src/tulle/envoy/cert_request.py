"""A key, a request for it, and whether the answer is what was asked for.

An answer is not used because the authority gave it: the certificate must be about the key made here and name the
identity that was asked for and nothing else, and its chain must lead to the roots that came with it. Anything else
would let a confused authority hand one workload the name of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class AnswerError(Exception):
    """The authority's answer is not a certificate for what was asked; the message says what was found."""


@dataclass(frozen=True, slots=True)
class Request:
    """A fresh key and the request for a certificate on it."""

    identity: str
    key: ec.EllipticCurvePrivateKey
    csr: bytes

    @classmethod
    def make(cls, identity: str) -> Request:
        """An EC P-256 key and a request whose one name is the SPIFFE URI ``identity`` (D9)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
        return cls(identity, key, csr.public_bytes(serialization.Encoding.PEM))


@dataclass(frozen=True, slots=True)
class Svid:
    """A certificate in use: what Envoy needs (PEM), and what is told of it. Times in Unix seconds."""

    identity: str
    key_pem: bytes
    chain_pem: tuple[str, ...]
    roots_pem: tuple[str, ...]
    serial: int
    not_before: float
    not_after: float

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The leaf and what is above it, without a root."""
        return tuple(map(load, self.chain_pem))


@lru_cache(maxsize=256)
def load(pem: str) -> x509.Certificate:
    """One certificate, read from PEM that is known to be one."""
    return x509.load_pem_x509_certificate(pem.encode())


def accept(request: Request, answer: Sequence[str], now: float) -> Svid:
    """The certificate in an answer (leaf first, roots as the last element). Raises AnswerError (D9, E4)."""
    chain, roots = _parse(answer)
    leaf = chain[0]
    _check_leaf(leaf, request)
    _check_times(chain, now)
    _check_links(chain, roots)
    return Svid(
        request.identity,
        request.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        tuple(_pem(cert) for cert in chain),
        tuple(_pem(cert) for cert in roots),
        leaf.serial_number,
        leaf.not_valid_before_utc.timestamp(),
        min(cert.not_valid_after_utc for cert in chain).timestamp(),
    )


def _parse(answer: Sequence[str]) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    if len(answer) < 2:
        raise AnswerError(f"the answer has {len(answer)} elements; a leaf and its root at least are needed")
    try:
        parsed = [x509.load_pem_x509_certificates(element.encode()) for element in answer]
    except ValueError as error:
        raise AnswerError(f"the answer is not PEM certificates: {error}") from error
    return [cert for element in parsed[:-1] for cert in element], parsed[-1]


def _check_leaf(leaf: x509.Certificate, request: Request) -> None:
    if leaf.public_key() != request.key.public_key():
        raise AnswerError(f"the certificate for {request.identity} is about another key than the one it was asked for")
    try:
        names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        names = []
    if names != [x509.UniformResourceIdentifier(request.identity)]:
        found = [str(getattr(name, "value", name)) for name in names]
        raise AnswerError(f"the certificate names {found}; it was asked for {request.identity!r}")


def _check_times(chain: Sequence[x509.Certificate], now: float) -> None:
    for cert in chain:
        if not cert.not_valid_before_utc.timestamp() <= now < cert.not_valid_after_utc.timestamp():
            raise AnswerError(
                f"{cert.subject.rfc4514_string() or 'the certificate'} is valid from {cert.not_valid_before_utc} to "
                f"{cert.not_valid_after_utc}, and it is {datetime.fromtimestamp(now).astimezone()}: compare the clocks "
                "of this node and of istiod"
            )


def _check_links(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> None:
    for below, issuer in pairwise(chain):
        if not _issued(below, issuer):
            raise AnswerError("a certificate of the chain is not issued by the one after it")
    last = chain[-1]
    if last not in roots and not any(_issued(last, root) for root in roots):
        raise AnswerError("the chain does not lead to a root that came with it")


def _issued(below: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        below.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pem(cert: x509.Certificate) -> str:
    return cert.public_bytes(serialization.Encoding.PEM).decode()
