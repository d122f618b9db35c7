"""Which keys of a JSON Web Key Set can verify tokens.

A key set is other people's data, and Envoy refuses a configuration whose keys it cannot read. So a set is read here, key by key, and
only what is a sound public key for signatures goes on: one odd key must not take the others with it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

_CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


class NoUsableKeysError(ValueError):
    """The text is no key set, or has no key that can verify a token."""


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Key(msgspec.Struct):
    """The members that matter (RFC 7517, 7518, 8037); private ones are not among them and do not go on."""

    kty: str
    kid: str = ""
    alg: str = ""
    use: str = ""
    crv: str = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""


def usable(text: str) -> str:
    """The key set with only those of its keys that can verify a token. Raises NoUsableKeysError."""
    try:
        found = msgspec.json.decode(text, type=_KeySet).keys
    except msgspec.DecodeError as error:
        raise NoUsableKeysError(f"this is no JSON Web Key Set: {error}") from error
    except RecursionError as error:
        raise NoUsableKeysError("this is no JSON Web Key Set: it is nested too deep") from error
    keys = [key for key in map(_read, found) if key is not None]
    if not keys:
        raise NoUsableKeysError(f"the key set has no public key for signatures among its {len(found)} keys")
    return msgspec.json.encode({"keys": keys}).decode()


def _read(raw: msgspec.Raw) -> dict[str, Any] | None:
    try:
        key = msgspec.json.decode(raw, type=_Key)
        sound = _SOUND.get(key.kty)
        if sound is None or key.use not in ("", "sig") or not sound(key):
            return None
    except (msgspec.DecodeError, binascii.Error, ValueError, UnsupportedAlgorithm, RecursionError):
        return None
    return {name: value for name, value in msgspec.structs.asdict(key).items() if value}


def _rsa(key: _Key) -> bool:
    rsa.RSAPublicNumbers(_number(key.e), _number(key.n)).public_key()
    return key.alg in ("", *(f"{family}{size}" for family in ("RS", "PS") for size in (256, 384, 512)))


def _elliptic(key: _Key) -> bool:
    curve = _CURVES.get(key.crv)
    if curve is None:
        return False
    ec.EllipticCurvePublicNumbers(_number(key.x), _number(key.y), curve).public_key()
    return key.alg in ("", {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[key.crv])


def _octets(key: _Key) -> bool:
    if key.crv != "Ed25519":
        return False
    ed25519.Ed25519PublicKey.from_public_bytes(_bytes(key.x))
    return key.alg in ("", "EdDSA")


_SOUND: Mapping[str, Callable[[_Key], bool]] = {"RSA": _rsa, "EC": _elliptic, "OKP": _octets}


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")
