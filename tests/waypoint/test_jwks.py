"""How istiod gets issuers' keys: from where, from where not, and what happens when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.waypoint import signing
from tulle.istiod.jwks.fetch import Fetcher, Issuer, KeysUnavailableError
from tulle.istiod.jwks.guard import ForbiddenAddressError, Guard
from tulle.istiod.jwks.keys import NoUsableKeysError, usable
from tulle.istiod.jwks.store import KeyStore

KEY = signing.EcKey("ec-1")
KEYS = signing.jwks(KEY)
HERE = Fetcher(Guard(["127.0.0.0/8"]))

Handler = Callable[[web.Request], web.StreamResponse]


@contextlib.asynccontextmanager
async def served(answers: Mapping[str, Handler], tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An HTTP server on 127.0.0.1; gives its base URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0)
        return answers[request.path](request)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"{'https' if tls else 'http'}://localhost:{port}"
    finally:
        await runner.cleanup()


def keys(_: web.Request) -> web.Response:
    return web.Response(text=KEYS)


def to(url: str) -> Handler:
    return lambda _: web.Response(status=302, headers={"location": url})


# -- which addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "169.254.1.1",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_asked(address: str) -> None:
    with pytest.raises(ForbiddenAddressError, match="jwksAllowedAddresses"):
        Guard().check(address)


@pytest.mark.parametrize("address", ["10.96.0.10", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:4860:4860::8888"])
def test_addresses_that_are(address: str) -> None:
    Guard().check(address)


def test_the_mesh_configuration_can_allow_more() -> None:
    guard = Guard(["127.0.0.0/8", "169.254.169.254"])
    guard.check("127.0.0.1")
    guard.check("::ffff:127.0.0.1")
    guard.check("169.254.169.254")
    with pytest.raises(ForbiddenAddressError):
        guard.check("169.254.169.253")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("localhost", "is a loopback"),
        ("127.0.0.1", "is a loopback"),
        ("[::ffff:127.0.0.1]", "is a loopback"),
        ("[::1]", "is a loopback"),
        ("0x7f.1", "is a loopback"),
        ("127.1", "canonical|usual spelling"),
        ("2130706433", "canonical|usual spelling"),
        ("0177.0.0.1", "canonical|usual spelling"),
        ("\uff11\uff12\uff17.0.0.1", "is a loopback"),
    ],
)
async def test_it_is_the_address_that_is_judged_and_not_its_spelling(host: str, words: str) -> None:
    async with served({"/keys": keys}) as url:
        uri = url.replace("localhost", host) + "/keys"
        with pytest.raises(KeysUnavailableError, match=words):
            await Fetcher(Guard()).fetch(Issuer("i", uri), 5)


async def test_a_redirect_is_judged_too() -> None:
    answers = {"/meta": to("http://169.254.169.254/latest"), "/file": to("file:///etc/passwd"), "/loop": to("/loop")}
    async with served(answers) as url:
        for path, words in (
            ("meta", "169.254.169.254 is"),
            ("file", "is no http or https URL"),
            ("loop", "3 redirects"),
        ):
            with pytest.raises(KeysUnavailableError, match=words):
                await HERE.fetch(Issuer("i", f"{url}/{path}"), 5)


# -- what is fetched --------------------------------------------------------------------------------------------------


async def test_keys_over_http_with_a_redirect() -> None:
    async with served({"/keys": keys, "/old": to("/keys")}) as url:
        for path in ("keys", "old"):
            assert json.loads(await HERE.fetch(Issuer("i", f"{url}/{path}"), 5))["keys"][0]["kid"] == "ec-1"


async def test_keys_by_discovery() -> None:
    answers: dict[str, Handler] = {"/realm/keys": keys}
    async with served(answers) as url:
        issuer = f"{url}/realm"
        document = {"issuer": issuer, "jwks_uri": f"{url}/realm/keys"}
        answers["/realm/.well-known/openid-configuration"] = lambda _: web.json_response(document)
        assert "ec-1" in await HERE.fetch(Issuer(issuer), 5)
        document["issuer"] = "https://someone.else"
        with pytest.raises(KeysUnavailableError, match="is that of issuer"):
            await HERE.fetch(Issuer(issuer), 5)
        document.update(issuer=issuer, jwks_uri="http://169.254.169.254/keys")
        with pytest.raises(KeysUnavailableError, match="metadata address"):
            await HERE.fetch(Issuer(issuer), 5)
    with pytest.raises(KeysUnavailableError, match="must be given by jwks or jwksUri"):
        await HERE.fetch(Issuer("accounts.example.com"), 5)


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for localhost: the server's, and that of a client which trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "crt", folder / "key"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, key_pem)
    return server, ssl.create_default_context(cafile=str(pem))


async def test_keys_over_https(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    async with served({"/keys": keys, "/down": to("http://localhost:1/keys")}, server) as url:
        trusting = Fetcher(Guard(["127.0.0.1"]), client)
        assert "ec-1" in await trusting.fetch(Issuer("i", f"{url}/keys"), 5)
        with pytest.raises(KeysUnavailableError, match="redirected from https"):
            await trusting.fetch(Issuer("i", f"{url}/down"), 5)
        with pytest.raises(KeysUnavailableError, match="certificate verify failed"):
            await HERE.fetch(Issuer("i", f"{url}/keys"), 5)
        await asyncio.sleep(0.05)


async def test_answers_that_are_no_keys() -> None:
    answers: dict[str, Handler] = {
        "/gone": lambda _: web.Response(status=404, text=KEYS),
        "/page": lambda _: web.Response(text="<html>"),
        "/empty": lambda _: web.json_response({"keys": []}),
        "/large": lambda _: web.Response(body=b" " * (2 << 20)),
        "/deep": lambda _: web.Response(text='{"keys": [' + "[" * 100_000),
        "/deep/.well-known/openid-configuration": lambda _: web.Response(text='{"x": ' + "[" * 100_000),
        "/bytes": lambda _: web.Response(body=b"\xff\xfe"),
    }
    async with served(answers) as url:
        for path, words in (
            ("gone", "status 404"),
            ("page", "no JSON Web Key Set"),
            ("empty", "no public key"),
            ("deep", "too deep"),
            ("large", "more than 1048576 bytes"),
            ("bytes", "codec can't decode"),
        ):
            with pytest.raises(KeysUnavailableError, match=words):
                await HERE.fetch(Issuer("i", f"{url}/{path}"), 5)
        with pytest.raises(KeysUnavailableError, match="too deep"):
            await HERE.fetch(Issuer(f"{url}/deep"), 5)
    with pytest.raises(KeysUnavailableError):
        await HERE.fetch(Issuer("i", f"{url}/keys"), 5)


async def test_an_issuer_that_never_answers() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(KeysUnavailableError, match=r"no answer within 0\.05 seconds"):
        await HERE.fetch(Issuer("i", f"http://127.0.0.1:{port}/"), 0.05)
    silent.close()
    await asyncio.sleep(0.05)


# -- which keys -------------------------------------------------------------------------------------------------------


def test_only_sound_public_keys_for_signatures_go_on() -> None:
    rsa, elliptic = signing.RsaKey("r").jwk(), KEY.jwk()
    odd: list[Any] = [
        {"kty": "oct", "k": "AAAA"},
        {**rsa, "use": "enc"},
        {**rsa, "alg": "RSA-OAEP"},
        {**rsa, "n": "AQAB"},
        {**elliptic, "crv": "secp256k1"},
        {**elliptic, "x": elliptic["y"]},
        {**elliptic, "kid": 7},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        7,
        None,
    ]
    found = json.loads(usable(json.dumps({"keys": [*odd, {**elliptic, "d": "secret"}, rsa]})))["keys"]
    assert found == [elliptic, rsa]
    with pytest.raises(NoUsableKeysError, match="no public key for signatures among its 10 keys"):
        usable(json.dumps({"keys": odd}))


_member = st.text() | st.sampled_from(["keys", "kty", "n", "e", "x", "y", "crv"])
anything: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        (st.none() | st.booleans() | st.integers() | st.text())
        | st.lists(anything, max_size=3)
        | st.dictionaries(_member, anything, max_size=3)
    )
)


@given(anything)
def test_anything_at_all_is_either_usable_or_refused(value: Any) -> None:
    for document in (value, {"keys": value}, {"keys": [value, KEY.jwk()]}):
        with contextlib.suppress(NoUsableKeysError):
            assert json.loads(usable(json.dumps(document)))["keys"] == [KEY.jwk()]


# -- keeping them -----------------------------------------------------------------------------------------------------


class Issuers:
    """Answers of issuers, and which of them were asked."""

    def __init__(self) -> None:
        self.answers: dict[str, str | None] = {}
        self.asked: list[tuple[str, float]] = []
        self.changed: list[str] = []
        self.store = KeyStore(self._fetch, lambda issuer: self.changed.append(issuer.issuer), refresh=0.01)

    async def _fetch(self, issuer: Issuer, timeout: float) -> str:
        self.asked.append((issuer.issuer, timeout))
        await asyncio.sleep(0)
        found = self.answers.get(issuer.issuer)
        if found is None:
            raise KeysUnavailableError(f"{issuer}: away")
        return found

    async def until(self, issuer: str, keys: str) -> None:
        async with asyncio.timeout(60):
            while self.store.keys(Issuer(issuer)) != keys:
                await asyncio.sleep(0.005)


@pytest.fixture
async def issuers() -> AsyncIterator[Issuers]:
    made = Issuers()
    yield made
    await made.store.close()


async def test_keys_are_fetched_when_wanted_and_refreshed(issuers: Issuers) -> None:
    issuers.answers = {"a": "1", "b": "2"}
    issuers.store.want({Issuer("a"): 3.0})
    await issuers.store.tried()
    assert (issuers.store.keys(Issuer("a")), issuers.store.keys(Issuer("b"))) == ("1", "")
    assert issuers.asked[0] == ("a", 3.0)
    issuers.answers["a"] = "1, rotated"
    await issuers.until("a", "1, rotated")
    assert issuers.changed == ["a", "a"]


async def test_an_issuer_that_is_away_keeps_its_own_keys_and_gets_no_others(issuers: Issuers) -> None:
    """CVE-2026-31837."""
    issuers.answers = {"a": "1", "b": None}
    issuers.store.want({Issuer("a"): 1.0, Issuer("b"): 1.0})
    await issuers.store.tried()
    assert issuers.store.keys(Issuer("b")) == ""
    issuers.answers["a"] = None
    asked = len(issuers.asked)
    async with asyncio.timeout(60):
        while len(issuers.asked) == asked:
            await asyncio.sleep(0.005)
    assert issuers.store.keys(Issuer("a")) == "1"


async def test_an_answer_that_nobody_thought_of_is_no_last_one(
    issuers: Issuers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that an issuer has taken back must not hold until istiod starts anew."""
    monkeypatch.setattr("tulle.istiod.jwks.store._FIRST_RETRY", 0.01)
    issuers.answers = {"a": "1"}
    fetch, odd = issuers.store._fetch, [RecursionError("odd")]

    async def sometimes(issuer: Issuer, timeout: float) -> str:
        found = await fetch(issuer, timeout)
        if issuers.changed and odd:
            raise odd.pop()
        return found

    monkeypatch.setattr(issuers.store, "_fetch", sometimes)
    issuers.store.want({Issuer("a"): 1.0})
    await issuers.until("a", "1")
    issuers.answers["a"] = "2"
    await issuers.until("a", "2")
    assert not odd


async def test_what_nobody_wants_is_forgotten(issuers: Issuers) -> None:
    issuers.answers = {"a": "1"}
    issuers.store.want({Issuer("a"): 1.0})
    await issuers.store.tried()
    issuers.store.want({})
    assert issuers.store.keys(Issuer("a")) == ""
    await asyncio.sleep(0.03)
    asked = len(issuers.asked)
    await asyncio.sleep(0.03)
    assert len(issuers.asked) == asked


async def test_the_same_keys_elsewhere_are_another_source(issuers: Issuers) -> None:
    issuers.answers = {"a": "1"}
    issuers.store.want({Issuer("a", "https://x/keys"): 1.0})
    await issuers.store.tried()
    assert issuers.store.keys(Issuer("a", "https://y/keys")) == ""
