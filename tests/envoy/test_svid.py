"""Whose certificate is a leaf with one identity: the patterns, against what a certificate library reads."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.envoy.svid import authority_pattern, identity_pattern

USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.now(UTC)


def encoded(certificate: x509.Certificate) -> str:
    """As Envoy's access log writes it."""
    return quote(certificate.public_bytes(serialization.Encoding.PEM).decode(), safe="-._~")


@settings(deadline=None)
@given(
    st.none() | st.tuples(st.booleans(), st.none() | st.integers(0, 300)),
    st.none() | st.sets(st.sampled_from(USAGES)),
    st.booleans(),
    st.text("abcdefghij.", min_size=1, max_size=9),
)
def test_an_authority_is_seen_in_any_certificate(
    constraints: tuple[bool, int | None] | None, usages: set[str] | None, critical: bool, padding: str
) -> None:
    """The padding moves the extensions to any place of the base64 text."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, padding)])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(hours=1))
    authority = False
    if constraints is not None:
        authority, length = constraints
        body = x509.BasicConstraints(authority, length if authority else None)
        builder = builder.add_extension(body, critical)
    if usages is not None:
        bits = {usage: usage in usages for usage in (*USAGES, "encipher_only", "decipher_only")}
        builder = builder.add_extension(x509.KeyUsage(**bits), critical)
        authority = authority or bool(usages & {"key_cert_sign", "crl_sign"})
    text = encoded(builder.sign(KEY, hashes.SHA256()))
    assert bool(re.fullmatch(authority_pattern(), text, re.DOTALL)) == authority


@pytest.mark.parametrize(
    ("uri", "proper"),
    [
        ("spiffe://cluster.local/ns/test/sa/default", True),
        ("spiffe://cluster.local/ns/Test_1/sa/a.b-c", True),
        ("", False),
        ("spiffe://other/ns/test/sa/default", False),
        ("spiffe://clusterxlocal/ns/test/sa/default", False),
        ("spiffe://cluster.local/ns/test/sa/default,spiffe://cluster.local/ns/test/sa/other", False),
        ("spiffe://cluster.local/ns/test/sa/default?x=y", False),
        ("spiffe://cluster.local/ns/test/sa/default#x", False),
        ("spiffe://cluster.local/ns/test/sa/d%65fault", False),
        ("spiffe://cluster.local/ns/test/sa/..", False),
        ("spiffe://cluster.local/ns/test/sa/a/b", False),
        ("spiffe://cluster.local/ns/tést/sa/default", False),
    ],
)
def test_one_proper_identity(uri: str, proper: bool) -> None:
    assert bool(re.fullmatch(identity_pattern("cluster.local"), uri)) is proper
