"""Keys, certificates and kubeconfigs of the embedded cluster.

Everybody who talks to the API server is known by a certificate of one cluster CA (CN is the user, O the groups), as in a
kubeadm cluster. Creating is idempotent: what exists and is still good is left alone, so that a restart changes nothing,
and what is missing, near its end or for the wrong addresses is made again.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_LIFE = datetime.timedelta(days=3650)
_LEAF_LIFE = datetime.timedelta(days=365)
_RENEW_BEFORE = datetime.timedelta(days=30)
_BACKDATE = datetime.timedelta(minutes=5)
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
SERVER_ADDRESSES = ("127.0.0.1", "::1", "10.96.0.1")


@dataclass(frozen=True, slots=True)
class Profile:
    """What one leaf certificate says: file stem, user, groups, and the names it serves under (none: client only)."""

    stem: str
    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    client: bool = True


@dataclass(frozen=True, slots=True)
class Pki:
    """Where the files are. Every private file is readable by its owner only."""

    directory: Path

    def certificate(self, stem: str) -> Path:
        """Path of `<stem>.crt` (PEM)."""
        return self.directory / f"{stem}.crt"

    def key(self, stem: str) -> Path:
        """Path of `<stem>.key` (PEM, PKCS#8)."""
        return self.directory / f"{stem}.key"

    @property
    def ca(self) -> Path:
        """The CA certificate."""
        return self.certificate("ca")

    @property
    def service_account_key(self) -> Path:
        """Private key that signs ServiceAccount tokens (ES256)."""
        return self.directory / "sa.key"

    @property
    def service_account_public_key(self) -> Path:
        """Public half of `service_account_key`."""
        return self.directory / "sa.pub"


ADMIN = Profile("admin", "kubernetes-admin", ("system:masters",))
CONTROLLERS = Profile("controllers", "system:kube-controller-manager")
KUBELET_CLIENT = Profile("kubelet-client", "kube-apiserver-kubelet-client")


def node_profile(name: str, addresses: Sequence[str] = ()) -> Profile:
    """Identity of a node's kubelet; it also serves the kubelet's HTTPS port at the node's addresses."""
    return Profile(f"node-{name}", f"system:node:{name}", ("system:nodes",), (name,), tuple(addresses))


def create(
    state_dir: Path | str, *, server: str = "https://127.0.0.1:6443", extra_addresses: Iterable[str] = ()
) -> Pki:
    """Make whatever is missing under `<state_dir>/pki`, and the kubeconfigs `kubeconfig` and `kubeconfig.controllers`.

    `server` is the URL written into the kubeconfigs; `extra_addresses` are further IP addresses or DNS names of the API
    server's certificate. Raises OSError when the directory cannot be written, ValueError when an existing file is damaged.
    """
    state = Path(state_dir)
    pki = Pki(state / "pki")
    pki.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ensure_ca(pki)
    names, addresses = _split(extra_addresses)
    apiserver = Profile(
        "apiserver", "kube-apiserver", (), (*SERVER_NAMES, *names), (*SERVER_ADDRESSES, *addresses), client=False
    )
    for profile in (apiserver, KUBELET_CLIENT, ADMIN, CONTROLLERS):
        _ensure_leaf(pki, profile)
    _ensure_service_account_key(pki)
    write_kubeconfig(pki, state / "kubeconfig", ADMIN.stem, ADMIN.user, server)
    write_kubeconfig(pki, state / "kubeconfig.controllers", CONTROLLERS.stem, CONTROLLERS.user, server)
    return pki


def create_node(state_dir: Path | str, name: str, addresses: Sequence[str], server: str) -> Path:
    """Certificate of node `name` (serving at `addresses`) and its `kubeconfig.node-<name>`, whose path is returned."""
    state = Path(state_dir)
    pki = Pki(state / "pki")
    profile = node_profile(name, addresses)
    _ensure_leaf(pki, profile)
    path = state / f"kubeconfig.node-{name}"
    write_kubeconfig(pki, path, profile.stem, profile.user, server)
    return path


def write_kubeconfig(pki: Pki, path: Path, stem: str, user: str, server: str) -> None:
    """A self-contained kubeconfig (all data inline) for the certificate `stem`."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    credentials = {
        "client-certificate-data": inline(pki.certificate(stem)),
        "client-key-data": inline(pki.key(stem)),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "tulle", "cluster": {"server": server, "certificate-authority-data": inline(pki.ca)}},
        ],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "tulle", "context": {"cluster": "tulle", "user": user}}],
        "current-context": "tulle",
        "preferences": {},
    }
    _write(path, yaml.safe_dump(config, sort_keys=False).encode(), private=True)


def _split(addresses: Iterable[str]) -> tuple[list[str], list[str]]:
    names: list[str] = []
    numbers: list[str] = []
    for address in addresses:
        try:
            numbers.append(str(ipaddress.ip_address(address)))
        except ValueError:
            names.append(address)
    return names, numbers


def _write(path: Path, data: bytes, *, private: bool) -> None:
    """Replace a file as a whole, so that a crash leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, pem, private=True)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(
            f"{path}: found a {type(key).__name__}, want an elliptic-curve private key; remove it and retry"
        )
    return key


def _read_certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _ensure_ca(pki: Pki) -> None:
    if pki.ca.exists() and pki.key("ca").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tulle-ca")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        content_commitment=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(pki.key("ca"), key)
    _write(pki.ca, certificate.public_bytes(serialization.Encoding.PEM), private=False)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + life)
    )


def _subject(profile: Profile) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in profile.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, profile.user)])


def _alternative_names(profile: Profile) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(profile.names)]
    return names + [x509.IPAddress(ipaddress.ip_address(a)) for a in dict.fromkeys(profile.addresses)]


def _still_good(pki: Pki, profile: Profile) -> bool:
    if not (pki.certificate(profile.stem).exists() and pki.key(profile.stem).exists()):
        return False
    certificate = _read_certificate(pki.certificate(profile.stem))
    if certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < _RENEW_BEFORE:
        return False
    if certificate.subject != _subject(profile):
        return False
    # Names do not say it: a crash may have left the key of a renewal beside the certificate from before, and the authority may
    # have been made again under its name.
    if certificate.public_key() != _read_key(pki.key(profile.stem)).public_key():
        return False
    try:
        certificate.verify_directly_issued_by(_read_certificate(pki.ca))
    except (ValueError, TypeError, InvalidSignature):
        return False
    wanted = set(_alternative_names(profile))
    try:
        found = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        found = set()
    return wanted <= found


def _ensure_leaf(pki: Pki, profile: Profile) -> None:
    if _still_good(pki, profile):
        return
    ca_key, ca = _read_key(pki.key("ca")), _read_certificate(pki.ca)
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH] if profile.client else []
    names = _alternative_names(profile)
    if names:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        _builder(_subject(profile), ca.subject, key.public_key(), _LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(ca_key, hashes.SHA256())
    _write_key(pki.key(profile.stem), key)
    _write(pki.certificate(profile.stem), certificate.public_bytes(serialization.Encoding.PEM), private=False)


def _ensure_service_account_key(pki: Pki) -> None:
    if not pki.service_account_key.exists():
        _write_key(pki.service_account_key, ec.generate_private_key(ec.SECP256R1()))
    public = _read_key(pki.service_account_key).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write(pki.service_account_public_key, pem, private=False)
