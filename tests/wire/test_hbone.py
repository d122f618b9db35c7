"""A raw HBONE client against the ztunnel of a running mesh: every row of spec D4, and every certificate that must not be believed."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from datetime import timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.e2e.mesh import NODE_NETNS, Mesh
from tests.support.live_mesh import populate, running
from tests.support.minting import BOTH, Authority, Minted, Shape, usage
from tests.wire.inside import Door

pytestmark = pytest.mark.e2e
REFUSED = 0
"""No HTTP answer at all: the connection ended."""
GOOD = "spiffe://cluster.local/ns/test/sa/minted"
EVIL = "spiffe://cluster.local/ns/evil/sa/default"
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-evil, namespace: hello}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("hbone")) as made:
        populate(made)
        applied = made.apply(DENY)
        assert applied.code == 0, applied.output
        yield made


@pytest.fixture(scope="module")
def authority(mesh: Mesh) -> Authority:
    data = json.loads(mesh.ok("kubectl get secret -n istio-system istio-ca-secret -o json"))["data"]
    return Authority.load(base64.b64decode(data["ca-cert.pem"]), base64.b64decode(data["ca-key.pem"]))


@pytest.fixture(scope="module")
def pod(mesh: Mesh) -> str:
    return mesh.ok("kubectl get pod -n hello -l version=v1 -o jsonpath={.items[0].status.podIP}")


@pytest.fixture
def door(pod: str) -> Door:
    return Door(NODE_NETNS, pod)


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    """A proper client: an SVID of this mesh."""
    return authority.mint(Shape()).client(authority.certificate)


async def test_a_tunnel_to_the_application(door: Door, context: ssl.SSLContext, pod: str) -> None:
    async with door.open(context) as client:
        assert client.peer == "spiffe://cluster.local/ns/hello/sa/default"
        tunnel = await client.tunnel(f"{pod}:5000")
        assert tunnel.status == 200
        await tunnel.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await tunnel.reader.read(4096)).startswith(b"HTTP/1.")


async def test_several_tunnels_in_one_connection_are_judged_one_by_one(
    door: Door, context: ssl.SSLContext, pod: str
) -> None:
    async with door.open(context) as client:
        statuses = [(await client.tunnel(target)).status for target in (f"{pod}:5000", f"{pod}:15006", f"{pod}:5000")]
    assert statuses == [200, 503, 200]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("{pod}:5000", 200),
        ("10.244.1.254:5000", 400),
        ("127.0.0.1:5000", 400),
        ("127.0.0.1:15000", 400),
        ("10.96.0.1:443", 400),
        ("{pod}", 400),
        ("{pod}:", 400),
        ("{pod}:0", 400),
        ("{pod}:5000:5000", 400),
        ("{pod}:15001", 503),
        ("{pod}:15006", 503),
        ("{pod}:15008", 503),
        ("{pod}:1", 503),
        ("{pod}:99999", 400),
        ("helloworld.hello.svc.cluster.local:5000", 200),
        ("helloworld.hello.svc.cluster.local:81", 503),
        ("helloworld.hello.svc.cluster.local", 400),
        ("unknown.hello.svc.cluster.local:5000", 503),
        ("curl.test.svc.cluster.local:80", 503),
    ],
)
async def test_authorities(door: Door, context: ssl.SSLContext, pod: str, target: str, status: int) -> None:
    assert await door.status(context, target.format(pod=pod)) == status


async def test_an_authority_that_http_itself_forbids(door: Door, context: ssl.SSLContext) -> None:
    assert await door.status(context, "not an authority") in (REFUSED, 400)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_other_methods(door: Door, context: ssl.SSLContext, pod: str, method: str) -> None:
    assert await door.status(context, f"{pod}:5000", method) == 400


async def test_a_tunnel_by_name_ends_at_the_pod(door: Door, context: ssl.SSLContext) -> None:
    async with door.open(context) as client:
        tunnel = await client.tunnel("helloworld.hello.svc.cluster.local:5000")
        await tunnel.write(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await tunnel.reader.read(4096)).startswith(b"HTTP/1.")


async def test_policy(mesh: Mesh, door: Door, authority: Authority, pod: str) -> None:
    evil = authority.mint(Shape(uris=(EVIL,))).client(authority.certificate)
    assert await door.status(evil, f"{pod}:5000") == 401
    assert await door.status(evil, "helloworld.hello.svc.cluster.local:5000") == 401
    again = authority.mint(Shape(uris=(EVIL.replace("evil", "evil2"),))).client(authority.certificate)
    assert await door.status(again, f"{pod}:5000") == 200


# Who is not believed: what SPIFFE (X.509-SVID) says that a leaf must not be.


def shape(*uris: str) -> Shape:
    return Shape(uris=uris)


BAD = {
    "expired": Shape(begin=timedelta(hours=-2), end=timedelta(minutes=-1)),
    "not yet valid": Shape(begin=timedelta(hours=1), end=timedelta(hours=2)),
    "another trust domain": shape("spiffe://other.example/ns/test/sa/minted"),
    "a trust domain that begins alike": shape("spiffe://cluster.local.example/ns/test/sa/minted"),
    "no name at all but an address": Shape(uris=()),
    "a DNS name only": Shape(uris=(), dns=("minted.test.svc",)),
    "two URIs": shape(GOOD, "spiffe://cluster.local/ns/test/sa/other"),
    "two URIs, one of them foreign": shape(GOOD, "https://example.com/"),
    "another scheme": shape("https://cluster.local/ns/test/sa/minted"),
    "a port": shape("spiffe://cluster.local:8443/ns/test/sa/minted"),
    "userinfo": shape("spiffe://user@cluster.local/ns/test/sa/minted"),
    "no path": shape("spiffe://cluster.local"),
    "the root path": shape("spiffe://cluster.local/"),
    "a path that ends in a slash": shape(GOOD + "/"),
    "an empty segment": shape("spiffe://cluster.local/ns//sa/minted"),
    "a dot segment": shape("spiffe://cluster.local/ns/test/sa/../minted"),
    "a query": shape(GOOD + "?x=y"),
    "a fragment": shape(GOOD + "#x"),
    "a percent-encoded path": shape("spiffe://cluster.local/ns/test/sa/mint%65d"),
    "an authority": Shape(ca=True, key_usage=usage("digital_signature", "key_cert_sign")),
    "cA without more": Shape(ca=True),
    "keyCertSign": Shape(key_usage=usage("digital_signature", "key_cert_sign")),
    "cRLSign": Shape(key_usage=usage("digital_signature", "crl_sign")),
    "a KeyUsage without digitalSignature": Shape(key_usage=usage("key_agreement")),
    "for servers only": Shape(extended=(ExtendedKeyUsageOID.SERVER_AUTH,)),
    "for code signing": Shape(extended=(ExtendedKeyUsageOID.CODE_SIGNING,)),
}


@pytest.mark.parametrize("what", BAD)
async def test_who_is_not_believed(door: Door, authority: Authority, pod: str, what: str) -> None:
    context = authority.mint(BAD[what]).client(authority.certificate)
    assert await door.status(context, f"{pod}:5000") == REFUSED


GOOD_SHAPES = {
    "as istiod signs them": Shape(),
    "with a DNS name beside the URI": Shape(dns=("minted.test.svc",)),
    "without KeyUsage": Shape(key_usage=None),
    "without ExtendedKeyUsage": Shape(extended=None),
    "without BasicConstraints": Shape(ca=None),
    "with more key usages": Shape(key_usage=usage("digital_signature", "key_encipherment", "key_agreement")),
    "with more extended usages": Shape(extended=(*BOTH, ExtendedKeyUsageOID.EMAIL_PROTECTION)),
}


@pytest.mark.parametrize("what", GOOD_SHAPES)
async def test_svids_that_are_allowed(door: Door, authority: Authority, pod: str, what: str) -> None:
    context = authority.mint(GOOD_SHAPES[what]).client(authority.certificate)
    assert await door.status(context, f"{pod}:5000") == 200


async def test_a_leaf_of_another_root(door: Door, authority: Authority, pod: str) -> None:
    stranger = Authority.make().mint(Shape()).client(authority.certificate)
    assert await door.status(stranger, f"{pod}:5000") == REFUSED


async def test_a_leaf_does_not_sign(door: Door, authority: Authority, pod: str) -> None:
    leaf = authority.mint(Shape())
    forged: Minted = Authority(leaf.certificate, leaf.key).mint(Shape(uris=(EVIL,)))
    assert await door.status(forged.client(authority.certificate), f"{pod}:5000") == REFUSED


async def test_no_certificate_at_all(door: Door, authority: Authority, pod: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    assert await door.status(context, f"{pod}:5000") == REFUSED


async def test_an_older_tls(door: Door, authority: Authority, pod: str) -> None:
    context = authority.mint(Shape()).client(authority.certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await door.status(context, f"{pod}:5000") == REFUSED
