"""RequestAuthentication at a waypoint: a good token counts, a bad one is refused, none is nobody's business but the policies'."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import pytest

from tests.waypoint import signing
from tests.waypoint.lab import AUTO, Mesh, policy, tokens
from tests.waypoint.signing import bearer, token

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

ISSUER, OTHER_ISSUER = "https://issuer.example.com", "https://other.example.com"
RSA, EC, STRANGER = signing.RsaKey("rsa-1"), signing.EcKey("ec-1"), signing.RsaKey("rsa-1")
RULE: dict[str, Any] = {"issuer": ISSUER, "jwks": signing.jwks(RSA, EC)}
ALICE = {"iss": ISSUER, "sub": "alice"}


def when(key: str, *values: str) -> dict[str, Any]:
    return policy({"rules": [{"when": [{"key": key, "values": list(values)}]}]}, "when")


def only(principal: str) -> dict[str, Any]:
    return policy({"rules": [{"from": [{"source": {"requestPrincipals": [principal]}}]}]}, "only")


async def status(mesh: Mesh, text: str = "", **request: Any) -> int:
    headers = [bearer(text)] if text else []
    return (await mesh.get(headers=headers, **request)).status


async def test_good_tokens_pass_bad_ones_do_not_and_none_is_fine(mesh: Mesh) -> None:
    await mesh.configure(tokens({**RULE, "audiences": ["shop", "store"]}))
    claims = {**ALICE, "aud": "shop"}
    now = int(time.time())
    cases = {
        "": 200,
        token(RSA, claims): 200,
        token(EC, claims): 200,
        token(EC, {**claims, "aud": ["x", "store"]}): 200,
        token(STRANGER, claims): 401,
        token(RSA, {**claims, "exp": now - 3600}): 401,
        token(RSA, {**claims, "nbf": now + 3600}): 401,
        token(RSA, {**claims, "aud": "bank"}): 403,
        token(RSA, ALICE): 403,
        token(RSA, {**claims, "iss": OTHER_ISSUER}): 401,
        token(RSA, claims)[:-4] + "AAAA": 401,
        signing.unsigned({**claims, "exp": now + 3600}): 401,
        token(EC, claims, alg="RS256"): 401,
        "not.a.token": 401,
    }
    assert {text: await status(mesh, text) for text in cases} == cases


async def test_who_the_token_is_for_reaches_the_policies(mesh: Mesh) -> None:
    await mesh.configure(tokens(RULE), only(f"{ISSUER}/alice"))
    assert await status(mesh, token(RSA, ALICE)) == 200
    assert await status(mesh, token(RSA, {**ALICE, "sub": "bob"})) == 403
    assert await status(mesh) == 403
    assert await status(mesh, token(STRANGER, ALICE)) == 401
    assert (await mesh.logged(**{"token__sub": "alice"}))["token.iss"] == ISSUER


@pytest.mark.parametrize(
    ("key", "value", "claims"),
    [
        ("request.auth.principal", f"{ISSUER}/alice", {}),
        ("request.auth.audiences", "shop", {"aud": ["store", "shop"]}),
        ("request.auth.presenter", "app-1", {"azp": "app-1"}),
        ("request.auth.claims[group]", "dev*", {"group": "developers"}),
        ("request.auth.claims[groups]", "dev", {"groups": ["ops", "dev"]}),
        ("request.auth.claims[realm][role]", "admin", {"realm": {"role": "admin"}}),
        ("request.auth.claims[scope]", "write", {"scope": "read write"}),
        ("request.auth.claims[perms]", "b", {"perms": "a b"}),
    ],
)
async def test_claims_reach_the_policies(mesh: Mesh, key: str, value: str, claims: dict[str, Any]) -> None:
    await mesh.configure(tokens({**RULE, "spaceDelimitedClaims": ["perms"]}), when(key, value))
    assert await status(mesh, token(RSA, {**ALICE, **claims})) == 200
    assert await status(mesh, token(RSA, {"iss": ISSUER, "sub": "mallory"})) == 403


async def test_where_tokens_are_looked_for(mesh: Mesh) -> None:
    rule = {
        **RULE,
        "fromHeaders": [{"name": "x-token", "prefix": "jwt "}],
        "fromParams": ["token"],
        "fromCookies": ["session"],
    }
    await mesh.configure(tokens(rule), only(f"{ISSUER}/*"))
    good = token(EC, ALICE)
    assert (await mesh.get(headers=[("x-token", f"jwt {good}")])).status == 200
    assert (await mesh.get(path=f"/hello?token={good}")).status == 200
    assert (await mesh.get(headers=[("cookie", f"session={good}")])).status == 200
    assert await status(mesh, good) == 403, "the usual places count only when none is named"
    assert (await mesh.get(headers=[("x-token", f"jwt {token(STRANGER, ALICE)}")])).status == 401


async def test_what_is_forwarded(mesh: Mesh) -> None:
    outputs = {
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
    }
    await mesh.configure(tokens({**RULE, **outputs}))
    good = token(RSA, ALICE)
    seen = await mesh.get(headers=[bearer(good)])
    assert seen.header_seen("authorization") == []
    assert seen.header_seen("x-sub") == ["alice"]
    (payload,) = seen.header_seen("x-payload")
    assert json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"] == "alice"
    forged = await mesh.get(headers=[("x-sub", "admin"), ("x-payload", "eyJ9")])
    assert (forged.header_seen("x-sub"), forged.header_seen("x-payload")) == ([], [])
    await mesh.configure(tokens({**RULE, "forwardOriginalToken": True}))
    assert (await mesh.get(headers=[bearer(good)])).header_seen("authorization") == [f"Bearer {good}"]


async def test_several_issuers_and_objects(mesh: Mesh) -> None:
    first = tokens(RULE, {"issuer": "https://third.example.com", "jwks": signing.jwks(EC)}, name="first")
    second = tokens({"issuer": OTHER_ISSUER, "jwks": signing.jwks(STRANGER)}, name="second")
    await mesh.configure(first, second)
    assert await status(mesh, token(RSA, ALICE)) == 200
    assert await status(mesh, token(STRANGER, {**ALICE, "iss": OTHER_ISSUER})) == 200
    assert await status(mesh, token(RSA, {**ALICE, "iss": OTHER_ISSUER})) == 401, "the key of another issuer"
    assert await status(mesh, token(RSA, {**ALICE, "iss": "https://third.example.com"})) == 401
    assert await status(mesh) == 200


@pytest.mark.parametrize(
    "keys", ["", '{"keys":[]}', "{", '{"keys":[{"kty":"RSA"}]}', '{"keys":[{"kty":"oct","k":"AAAA"}]}']
)
async def test_an_issuer_without_usable_keys_has_no_valid_tokens(mesh: Mesh, keys: str) -> None:
    """CVE-2026-31837: nothing stands in for keys that are not there, and nothing else is disturbed."""
    await mesh.configure(
        tokens({"issuer": ISSUER, **({"jwks": keys} if keys else {"jwksUri": "https://k.example.com"})})
    )
    assert await status(mesh, token(RSA, ALICE)) == 401
    assert await status(mesh, signing.unsigned(ALICE)) == 401
    assert await status(mesh) == 200
    assert mesh.rejections == []
    await mesh.configure(tokens(RULE))
    assert await status(mesh, token(RSA, ALICE)) == 200


async def test_a_key_that_cannot_be_used_does_not_spoil_the_others(mesh: Mesh) -> None:
    odd = [{"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": "!", "e": "AQAB"}, {**RSA.jwk(), "use": "enc"}]
    await mesh.configure(tokens({**RULE, "jwks": json.dumps({"keys": [*odd, EC.jwk()]})}))
    assert await status(mesh, token(EC, ALICE)) == 200
    assert await status(mesh, token(RSA, ALICE)) == 401
    assert mesh.rejections == []


async def test_new_keys_hold_for_the_next_request_on_an_open_connection(mesh: Mesh) -> None:
    await mesh.configure(tokens(RULE))
    request = f"GET /hello HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token(RSA, ALICE)}\r\n\r\n".encode()
    from tests.waypoint.lab import TEST

    async with mesh.tunnel(TEST, 5000) as tunnel:
        await tunnel.write(request)
        assert (await tunnel.reader.readline()).split()[1] == b"200"
        await mesh.configure(tokens({**RULE, "jwks": signing.jwks(STRANGER)}))
        await tunnel.reader.readuntil(b"]}")
        await tunnel.write(request)
        assert (await tunnel.reader.readline()).split()[1] == b"401"


async def test_tokens_count_on_a_port_of_unknown_protocol(mesh: Mesh) -> None:
    await mesh.configure(tokens(RULE), only(f"{ISSUER}/alice"))
    await mesh.eventually(200, port=AUTO, headers=[bearer(token(EC, ALICE))])
    assert await status(mesh, token(STRANGER, ALICE), port=AUTO) == 401
    assert await status(mesh, port=AUTO) == 403
