"""Issuers that sign real tokens, written from the public formats (RFC 7515, 7517, 7519)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, length: int) -> str:
    return b64(value.to_bytes(length, "big"))


class RsaKey:
    algorithm = "RS256"

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = rsa.generate_private_key(65537, 2048)

    def jwk(self) -> dict[str, Any]:
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "RSA",
            "alg": self.algorithm,
            "use": "sig",
            "kid": self.kid,
            "n": _number(numbers.n, 256),
            "e": _number(numbers.e, 3),
        }

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())


class EcKey:
    algorithm = "ES256"

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())

    def jwk(self) -> dict[str, Any]:
        numbers = self._key.public_key().public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "alg": self.algorithm,
            "use": "sig",
            "kid": self.kid,
            "x": _number(numbers.x, 32),
            "y": _number(numbers.y, 32),
        }

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


Key = RsaKey | EcKey


def jwks(*keys: Key) -> str:
    return json.dumps({"keys": [key.jwk() for key in keys]})


def token(key: Key, claims: Mapping[str, Any], **header: Any) -> str:
    """A signed token; `exp` is an hour from now unless the claims say otherwise."""
    head = {"alg": key.algorithm, "typ": "JWT", "kid": key.kid, **header}
    body = {"exp": int(time.time()) + 3600, **claims}
    signed = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(body).encode())}"
    return f"{signed}.{b64(key.sign(signed.encode()))}"


def unsigned(claims: Mapping[str, Any]) -> str:
    """A token that says that it need not be verified."""
    head = b64(json.dumps({"alg": "none", "typ": "JWT"}).encode())
    return f"{head}.{b64(json.dumps(dict(claims)).encode())}."


def bearer(text: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {text}")
