"""What makes a certificate an X.509-SVID beyond a good chain: who it may name, and that it may sign for nobody.

Envoy's TLS verifies the chain, the times, the usages that TLS needs and the trust domain, but believes a leaf that is itself an
authority, one with several identities, and any URI that begins well.  Its own SPIFFE validator would see the first of these, but
does not look at the extended usages, and ignores the identity that a connection expects.  So the rest is decided here, once per
connection, after the handshake and before the first byte is read: by two texts that Envoy has of the peer, its URIs and its PEM.

Extensions are found in the PEM by their bytes, which base64 shows in one of three spellings, by where they begin.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2 as rbac
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from tulle.envoy import matching
from tulle.envoy.filter_state import Value
from tulle.envoy.wire import pack

_IDENTITY: Final = "tulle.peer.identity"
_CERTIFICATE: Final = "tulle.peer.certificate"

#: What `leaf_of` looks at, to be set when the handshake is over.
FACTS: Final = (
    Value(_IDENTITY, "%DOWNSTREAM_PEER_URI_SAN%", factory="envoy.string", upstream="NONE"),
    Value(_CERTIFICATE, "%DOWNSTREAM_PEER_CERT%", factory="envoy.string", upstream="NONE"),
)
#: Begins the reason that Envoy gives for a connection which was refused here.
REFUSED: Final = "rbac_access_denied"

#: One segment of a SPIFFE path, in the letters that the standard has, and never "." or "..".
_SEGMENT: Final = "[A-Za-z0-9][A-Za-z0-9._-]*"
_CRITICAL: Final = ("", "0101ff")
#: Extensions that make a certificate an authority: in hexadecimal, "?" for any byte.
_BASIC_CONSTRAINTS: Final = "0603551d13{critical}04?30?0101"
_KEY_USAGE: Final = "0603551d0f{critical}04?03??"
_SIGNS_CERTIFICATES: Final = "*****1**"
_SIGNS_REVOCATIONS: Final = "******1*"
_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_IN_URL: Final = {"+": "%2B", "/": "%2F"}
_LINE_END: Final = "(?:%0A)?"
_ANY: Final = "*"


def leaf_of(trust_domain: str) -> listener_components_pb2.Filter:
    """A network filter that ends connections whose peer is not one identity of `trust_domain` that signs for nobody."""
    identity = matching.filter_state(_IDENTITY)
    certificate = matching.filter_state(_CERTIFICATE)
    proper = matching.matches(identity, identity_pattern(trust_domain))
    cases = [
        (matching.negate(proper), _verdict("peer identity is not acceptable", rbac.RBAC.DENY)),
        (matching.matches(certificate, authority_pattern()), _verdict("peer is an authority", rbac.RBAC.DENY)),
        (matching.matches(certificate, ".+"), _verdict("peer is a leaf", rbac.RBAC.ALLOW)),
    ]
    config = rbac_pb2.RBAC(stat_prefix="svid")
    config.matcher.CopyFrom(matching.first_match(cases, _verdict("peer is not known", rbac.RBAC.DENY)))
    return listener_components_pb2.Filter(name="envoy.filters.network.rbac", typed_config=pack(config))


def _verdict(name: str, action: rbac.RBAC.Action.ValueType) -> matcher_pb2.Matcher.OnMatch:
    packed = pack(rbac.Action(name=name, action=action))
    return matcher_pb2.Matcher.OnMatch(action=extension_pb2.TypedExtensionConfig(name=name, typed_config=packed))


def identity_pattern(trust_domain: str) -> str:
    """The one identity of a workload of `trust_domain`; several URIs never match, Envoy puts commas between them."""
    return f"spiffe://{re.escape(trust_domain)}/ns/{_SEGMENT}/sa/{_SEGMENT}"


@cache
def authority_pattern() -> str:
    """The URL-encoded PEM of a certificate that may sign certificates or revocations, or says that it is an authority."""
    contents = [(_BASIC_CONSTRAINTS, ""), (_KEY_USAGE, _SIGNS_CERTIFICATES), (_KEY_USAGE, _SIGNS_REVOCATIONS)]
    wanted = [_bits(text.format(critical=critical)) + more for text, more in contents for critical in _CRITICAL]
    spellings = [_spelling(_ANY * 8 * offset + bits) for bits in wanted for offset in range(3)]
    return f".*(?:{'|'.join(spellings)}).*"


def _bits(text: str) -> str:
    """`text` as "0", "1" and "*" for either."""
    return "".join(_ANY * 8 if byte == "?" else f"{int(byte, 16):08b}" for byte in re.findall(r"\?|..", text))


def _spelling(bits: str) -> str:
    """The bits in base64, beginning with the first letter that says anything."""
    padded = bits + _ANY * (-len(bits) % 6)
    letters = [padded[at : at + 6] for at in range(0, len(padded), 6)]
    while not letters[0].strip(_ANY):
        del letters[0]
    return _LINE_END.join(map(_letter, letters))


def _letter(bits: str) -> str:
    """The letters of base64 that agree with six bits."""
    if not bits.strip(_ANY):
        return r"(?:\w|%2[BF])"
    fitting = re.compile(bits.replace(_ANY, "."))
    found = [letter for value, letter in enumerate(_BASE64) if fitting.fullmatch(f"{value:06b}")]
    plain = "".join(letter for letter in found if letter not in _IN_URL)
    escaped = [_IN_URL[letter] for letter in found if letter in _IN_URL]
    if len(plain) == 1 and not escaped:
        return plain
    choices = ([f"[{_ranges(plain)}]"] if plain else []) + escaped
    return choices[0] if len(choices) == 1 else f"(?:{'|'.join(choices)})"


def _ranges(letters: str) -> str:
    """`letters` as they stand between brackets of an expression."""
    runs: list[str] = []
    for letter in letters:
        if runs and ord(letter) == ord(runs[-1][-1]) + 1:
            runs[-1] = runs[-1][0] + letter
        else:
            runs.append(letter)
    return "".join(run if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
