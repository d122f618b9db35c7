"""Kubeconfig and in-cluster credentials: what is read, and what is refused rather than ignored."""

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from tulle.kube.config import ConfigError, TokenFile, from_kubeconfig, in_cluster


def write(path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, name: str = "c") -> str:
    document = {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "ns"}}],
        "clusters": [{"name": name, "cluster": cluster or {"server": "https://127.0.0.1:6443/"}}],
        "users": [{"name": name, "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[bytes, bytes]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(hours=1))
    cert = builder.sign(key, hashes.SHA256())
    return cert.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_client_certificate_as_data_and_as_files(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    cert, key = pair
    data = {
        "client-certificate-data": base64.b64encode(cert).decode(),
        "client-key-data": base64.b64encode(key).decode(),
    }
    ca = {"server": "https://127.0.0.1:6443/", "certificate-authority-data": base64.b64encode(cert).decode()}
    connection = from_kubeconfig(write(tmp_path / "a", data, ca))
    assert connection.server == "https://127.0.0.1:6443"
    assert connection.namespace == "ns"
    assert connection.tls is not None
    assert connection.tls.cert_store_stats()["x509"] == 1
    (tmp_path / "crt").write_bytes(cert)
    (tmp_path / "key").write_bytes(key)
    assert from_kubeconfig(write(tmp_path / "b", {"client-certificate": "crt", "client-key": "key"})).tls is not None


def test_token_and_basic_and_insecure(tmp_path: Path) -> None:
    assert from_kubeconfig(write(tmp_path / "a", {"token": "t"})).headers == {"Authorization": "Bearer t"}
    basic = from_kubeconfig(write(tmp_path / "b", {"username": "u", "password": "p"}))
    assert basic.headers == {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()}
    lax = from_kubeconfig(write(tmp_path / "c", {}, {"server": "https://x", "insecure-skip-tls-verify": True}))
    assert lax.tls is not None
    assert lax.tls.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize("field", ["exec", "auth-provider", "as"])
def test_what_is_not_supported_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ConfigError, match=f"'{field}' is not supported; accepted: client-certificate"):
        from_kubeconfig(write(tmp_path / "a", {field: {"x": "y"}}))


@pytest.mark.parametrize(
    ("user", "cluster", "message"),
    [
        ({"client-certificate-data": "!"}, None, "client-certificate-data is not base64"),
        ({"client-key": "missing"}, None, "client-key: .*No such file"),
        ({"client-key-data": base64.b64encode(b"x").decode()}, None, "user has no client-certificate"),
        ({}, {"server": "127.0.0.1"}, "'127.0.0.1' is not an http"),
        ({}, {"server": "https://x", "certificate-authority-data": "eA=="}, "not a PEM certificate"),
    ],
)
def test_errors_name_file_and_field(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){tmp_path}.*{message}"):
        from_kubeconfig(write(tmp_path / "a", user, cluster))


def test_unknown_context_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no 'other'; found: c"):
        from_kubeconfig(write(tmp_path / "a", {}), "other")


def test_list_of_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", {}, name="one"), write(tmp_path / "b", {"token": "t"}, name="two")
    joined = f"{first}:{tmp_path}/none:{second}"
    assert from_kubeconfig(joined, "two").headers == {"Authorization": "Bearer t"}
    assert from_kubeconfig(joined).headers == {}


def test_in_cluster(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_HOST"):
        in_cluster({}, tmp_path)
    env = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(ConfigError, match="no service account token"):
        in_cluster(env, tmp_path)
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(pair[0])
    (tmp_path / "namespace").write_text("istio-system")
    connection = in_cluster(env, tmp_path)
    assert connection.server == "https://10.96.0.1:443"
    assert connection.namespace == "istio-system"
    assert connection.token is not None
    assert connection.token.value() == "first"


def test_token_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    token = TokenFile(file)
    assert token.value() == "one"
    file.write_text("two")
    assert token.value() == "one"
    assert token.value(fresh=True) == "two"
    file.unlink()
    assert token.value(fresh=True) == "two"
