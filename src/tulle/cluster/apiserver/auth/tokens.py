"""ServiceAccount tokens: JWTs signed with ES256 (RFC 7515, RFC 7519), and the key set that lets others check them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

ISSUER = "https://kubernetes.default.svc.cluster.local"


class TokenError(Exception):
    """The text is not a token of ours."""


def encode64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise TokenError(f"not base64url: {error}") from None


class TokenSigner:
    """Signs and verifies with the ServiceAccount key at `key_path`. Raises ValueError if it is not a P-256 key."""

    def __init__(self, key_path: Path) -> None:
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"{key_path}: want a P-256 private key for ServiceAccount tokens")
        self._key = key
        self._public = key.public_key()
        der = self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.key_id = encode64(hashlib.sha256(der).digest())

    def sign(self, claims: dict[str, Any]) -> str:
        """A compact JWT."""
        header = encode64(msgspec.json.encode({"alg": "ES256", "kid": self.key_id}))
        payload = encode64(msgspec.json.encode(claims))
        signed = f"{header}.{payload}".encode()
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return f"{header}.{payload}.{encode64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token signed with this key; times and audiences are the caller's to check. Raises TokenError."""
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenError("want three dot-separated parts")
        signature = _decode64(parts[2])
        try:
            header = msgspec.json.decode(_decode64(parts[0]))
            claims = msgspec.json.decode(_decode64(parts[1]))
        except msgspec.DecodeError as error:
            raise TokenError(f"not JSON: {error}") from None
        if not isinstance(header, dict) or header.get("alg") != "ES256" or len(signature) != 64:
            raise TokenError("want an ES256 signature")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            self._public.verify(
                encode_dss_signature(r, s), f"{parts[0]}.{parts[1]}".encode(), ec.ECDSA(hashes.SHA256())
            )
        except InvalidSignature:
            raise TokenError("the signature does not match") from None
        if not isinstance(claims, dict):
            raise TokenError("the claims are not an object")
        return claims

    def key_set(self) -> dict[str, Any]:
        """The JSON Web Key Set (RFC 7517)."""
        numbers = self._public.public_numbers()
        key = {
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": encode64(numbers.x.to_bytes(32, "big")),
            "y": encode64(numbers.y.to_bytes(32, "big")),
        }
        return {"keys": [key]}
