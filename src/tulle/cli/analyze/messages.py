"""Messages and the catalogue of their codes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tulle.cli.explain.documents import Key
from tulle.cli.explain.world import World

DOCUMENTATION = "https://istio.io/latest/docs/reference/config/analysis"


class Level(enum.IntEnum):
    """How bad a message is; thresholds compare."""

    INFO = 1
    WARNING = 2
    ERROR = 3

    @property
    def text(self) -> str:
        return self.name.title()

    @classmethod
    def parse(cls, text: str) -> Level:
        """Read a level in any case. Raises ValueError."""
        try:
            return cls[text.upper()]
        except KeyError:
            raise ValueError(f"found {text!r}; accepted are {', '.join(one.text for one in cls)}") from None


class Code(NamedTuple):
    """What a code is called and how bad it is."""

    name: str
    level: Level


CODES: Mapping[str, Code] = {
    "IST0101": Code("ReferencedResourceNotFound", Level.ERROR),
    "IST0102": Code("NamespaceNotInjected", Level.INFO),
    "IST0103": Code("PodMissingProxy", Level.WARNING),
    "IST0106": Code("SchemaValidationError", Level.ERROR),
    "IST0118": Code("PortNameIsNotUnderNamingConvention", Level.INFO),
    "IST0123": Code("NamespaceMultipleInjectionLabels", Level.WARNING),
    "IST0127": Code("NoMatchingWorkloadsFound", Level.WARNING),
    "IST0134": Code("ServiceEntryAddressesRequired", Level.WARNING),
    "IST0149": Code("JwtClaimBasedRoutingWithoutRequestAuthN", Level.WARNING),
    "IST0166": Code("IneffectiveSelector", Level.WARNING),
    "IST0167": Code("IneffectivePolicy", Level.WARNING),
    "IST0171": Code("NegativeConditionStatus", Level.WARNING),
    "IST0175": Code("UnrestrictedJwksFetch", Level.WARNING),
    "IST0176": Code("GatewayApiVersionTooOld", Level.WARNING),
    "TUL0001": Code("UnknownWaypointLabel", Level.WARNING),
    "TUL0002": Code("AllowDeniesEverything", Level.ERROR),
    "TUL0003": Code("DenyHasNoEffect", Level.ERROR),
    "TUL0004": Code("TargetNotEnrolled", Level.WARNING),
    "TUL0005": Code("WaypointNotAllowed", Level.WARNING),
    "TUL0006": Code("HeadNotInMethods", Level.INFO),
    "TUL0007": Code("ProfileKeyInUse", Level.INFO),
    "TUL0008": Code("PortLevelMtlsOnServicePort", Level.WARNING),
    "TUL0009": Code("PrincipalWithScheme", Level.WARNING),
    "TUL0010": Code("ForeignTrustDomainAtZtunnel", Level.WARNING),
    "TUL0011": Code("WebhookUnderStrict", Level.WARNING),
    "TUL0012": Code("WaypointNotBound", Level.WARNING),
    "TUL0013": Code("AddressBlockNotInMesh", Level.WARNING),
}


@dataclass(frozen=True)
class Message:
    """One message about one object."""

    code: str
    key: Key
    text: str

    @property
    def level(self) -> Level:
        return CODES[self.code].level

    @property
    def origin(self) -> str:
        """`Kind namespace/name`, without the namespace for cluster-scoped kinds."""
        return f"{self.key.kind} {'/'.join(part for part in self.key[1:] if part)}"

    def line(self) -> str:
        return f"{self.level.text} [{self.code}] ({self.origin}) {self.text}"

    def as_data(self, reference: str) -> dict[str, str]:
        """The fields of `-o json`."""
        data = {
            "code": self.code,
            "level": self.level.text,
            "message": self.text,
            "origin": self.origin,
            "reference": reference,
        }
        return data | (
            {"documentationUrl": f"{DOCUMENTATION}/{self.code.lower()}/"} if self.code.startswith("IST") else {}
        )


Analyzer = Callable[[World], Iterator[Message]]
