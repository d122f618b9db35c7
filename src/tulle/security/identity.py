"""Workload identities.

Every policy question ends at "who is the peer?". An identity is a SPIFFE ID of the one shape that the mesh issues,
``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``; anything else is refused here, so that the rest of the
engine never meets a half-parsed name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEME = "spiffe://"
_SHAPE = re.compile(
    r"(?P<td>[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)/ns/(?P<ns>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)"
    r"/sa/(?P<sa>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)"
)


class InvalidIdentity(ValueError):  # noqa: N818 - it names the finding, as NotFound does
    """A string that is no identity of this mesh; the message says what was found and what is accepted."""


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """The identity of a workload: its trust domain, namespace and service account."""

    trust_domain: str
    namespace: str
    service_account: str

    @property
    def principal(self) -> str:
        """The form that policies use: the SPIFFE ID without its scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def spiffe(self) -> str:
        """The SPIFFE ID, as it stands in a certificate's URI SAN."""
        return SCHEME + self.principal

    def __str__(self) -> str:
        return self.spiffe

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read ``spiffe://td/ns/N/sa/S`` (the scheme may be left out).

        Raises InvalidIdentity for any other shape, NUL bytes, empty parts or extra segments included.
        """
        found = _SHAPE.fullmatch(text.removeprefix(SCHEME))
        if found is None:
            raise InvalidIdentity(
                f"{text!r} is not an identity: accepted is "
                "spiffe://<trust domain>/ns/<namespace>/sa/<service account> in lower case"
            )
        return cls(found["td"], found["ns"], found["sa"])
