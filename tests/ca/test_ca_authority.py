"""What is signed, what is refused, and that what is signed verifies."""

from datetime import timedelta

import pytest
from ca_support import Clock, make_csr, uri
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import INTERMEDIATE_LIFETIME, Authority, AuthorityError, CsrError, Roots

ME = "spiffe://cluster.local/ns/shop/sa/cart"


def parse(chain: tuple[str, ...]) -> list[x509.Certificate]:
    return [x509.load_pem_x509_certificate(element.encode()) for element in chain]


def test_leaf_is_an_svid(authority: Authority, clock: Clock) -> None:
    leaf, middle, root = parse(authority.sign(make_csr(uri(ME)), ME))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(ME)]
    assert list(leaf.subject) == []
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    assert leaf.not_valid_before_utc == clock() - timedelta(minutes=2)
    assert leaf.not_valid_after_utc == clock() + timedelta(hours=24)
    leaf.verify_directly_issued_by(middle)
    middle.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert middle.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_chain_verifies_as_a_client(authority: Authority, clock: Clock) -> None:
    leaf, *above, root = parse(authority.sign(make_csr(), ME))
    verifier = PolicyBuilder().store(Store([root])).time(clock()).build_client_verifier()
    verified = verifier.verify(leaf, above)
    assert verified.subjects == [x509.UniformResourceIdentifier(ME)]


def test_serving_certificate_verifies_for_its_names(authority: Authority, clock: Clock) -> None:
    served = authority.serving(["istiod.istio-system.svc", "127.0.0.1"])
    leaf, *above = x509.load_pem_x509_certificates(served.chain)
    root = x509.load_pem_x509_certificate(authority.root_pem.encode())
    policy = PolicyBuilder().store(Store([root])).time(clock())
    policy.build_server_verifier(x509.DNSName("istiod.istio-system.svc")).verify(leaf, above)
    assert clock() < served.refresh_at < leaf.not_valid_after_utc


@pytest.mark.parametrize(
    ("csr", "said"),
    [
        (make_csr(uri("spiffe://cluster.local/ns/shop/sa/other")), "may have only"),
        (make_csr(uri(ME, "spiffe://cluster.local/ns/shop/sa/other")), "may have only"),
        (make_csr(uri(ME, ME)), "may have only"),
        (make_csr((x509.SubjectAlternativeName([x509.DNSName("istiod.istio-system.svc")]), False)), "may have only"),
        (make_csr(uri(ME + "\0x")), "may have only"),
        (make_csr((x509.BasicConstraints(ca=True, path_length=None), True)), "certificate authority"),
        (
            make_csr(
                (x509.KeyUsage(True, False, False, False, False, True, False, False, False), True),
            ),
            "signs certificates",
        ),
        (make_csr(key=rsa.generate_private_key(65537, 1024)), "RSAPublicKey 1024"),
        (make_csr(key=ec.generate_private_key(ec.SECP521R1())), "secp521r1"),
        (make_csr(key=dsa.generate_private_key(2048)), "DSAPublicKey 2048"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a PEM"),
        (b"", "not a PEM"),
        (b"x" * 20_000, "bytes"),
    ],
)
def test_refused(authority: Authority, csr: bytes, said: str) -> None:
    with pytest.raises(CsrError, match=said):
        authority.sign(csr, ME)


def test_a_request_signed_by_another_key_is_refused(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    csr = x509.load_pem_x509_csr(make_csr(uri(ME)))
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    other = x509.load_pem_x509_csr(make_csr(uri(ME))).public_bytes(serialization.Encoding.DER)
    tail = len(csr.signature)
    if len(other) != len(der):
        der = bytearray(der)
    der[-8:] = bytes(byte ^ 0x55 for byte in der[-8:])
    assert tail
    body = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CsrError, match="signature"):
        authority.sign(body, ME)


@given(st.integers(min_value=-(10**9), max_value=10**9))
def test_lifetime_is_bounded(seconds: int) -> None:
    clock = Clock()
    root = shapes.self_signed_root("x", clock(), timedelta(days=10))
    leaf = parse(
        Authority(Roots((root.certificate,), root=root), clock=clock).sign(CSR, ME, timedelta(seconds=seconds))
    )[0]
    left = leaf.not_valid_after_utc - clock()
    assert timedelta(seconds=10) <= left <= timedelta(hours=24)
    if 10 <= seconds <= 86400:
        assert left == timedelta(seconds=seconds)


CSR = make_csr(uri(ME))


def test_a_leaf_never_outlives_what_signs_it(clock: Clock) -> None:
    root = shapes.self_signed_root("x", clock(), timedelta(hours=3))
    leaf, middle, top = parse(Authority(Roots((root.certificate,), root=root), clock=clock).sign(CSR, ME))
    assert leaf.not_valid_after_utc == middle.not_valid_after_utc == top.not_valid_after_utc


def test_an_expired_root_signs_nothing(clock: Clock) -> None:
    root = shapes.self_signed_root("x", clock(), timedelta(hours=3))
    authority = Authority(Roots((root.certificate,), root=root), clock=clock)
    clock.advance(3 * 3600)
    with pytest.raises(AuthorityError, match="valid from"):
        authority.sign(CSR, ME)


def test_the_intermediate_is_replaced_long_before_it_expires(authority: Authority, clock: Clock) -> None:
    first = authority.sign(CSR, ME)
    clock.advance(3600)
    assert authority.sign(CSR, ME)[1] == first[1]
    clock.advance(INTERMEDIATE_LIFETIME.total_seconds() * 0.7)
    later = authority.sign(CSR, ME)
    assert later[1] != first[1]
    assert later[2] == first[2]


def test_serial_numbers_differ(authority: Authority) -> None:
    assert len({parse(authority.sign(CSR, ME))[0].serial_number for _ in range(50)}) == 50
