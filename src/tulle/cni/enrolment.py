"""Which pods the mesh captures, and why: the whole decision in one pure function with a reason for every answer.

Source: specification section A1. The order of the checks is part of the contract: an excluded namespace wins over
everything, a host-network or sidecar pod is never captured, a pod's own label beats its namespace's in both
directions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

DATAPLANE_MODE = "istio.io/dataplane-mode"
AMBIENT = "ambient"
NONE = "none"
SIDECAR_STATUS = "sidecar.istio.io/status"
BYPASS_INBOUND = "ambient.istio.io/bypass-inbound-capture"
DNS_CAPTURE = "ambient.istio.io/dns-capture"
VIRTUAL_INTERFACES = "istio.io/reroute-virtual-interfaces"
REDIRECTION = "ambient.istio.io/redirection"

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Reason(StrEnum):
    """Why a pod is captured, or is not."""

    EXCLUDED_NAMESPACE = "its namespace is excluded from capture by the node agent's settings"
    HOST_NETWORK = "it uses the host's network"
    SIDECAR = f"it has a sidecar (annotation {SIDECAR_STATUS})"
    POD_LABEL = f"its label {DATAPLANE_MODE}={AMBIENT}"
    POD_OPTED_OUT = f"its label {DATAPLANE_MODE}={NONE}"
    NAMESPACE_LABEL = f"its namespace's label {DATAPLANE_MODE}={AMBIENT}"
    NOT_LABELLED = f"neither it nor its namespace has the label {DATAPLANE_MODE}={AMBIENT}"


@dataclass(frozen=True)
class PodFacts:
    """What the decision needs to know of a pod."""

    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    host_network: bool = False


@dataclass(frozen=True)
class Enrolment:
    """``captured``, and why."""

    captured: bool
    reason: Reason


@dataclass(frozen=True)
class Redirection:
    """What of a captured pod's traffic is redirected (section A2). UDP other than DNS never is."""

    inbound: bool = True
    dns: bool = False
    virtual_interfaces: tuple[str, ...] = ()


def enrolment(pod: PodFacts, namespace_labels: Mapping[str, str], excluded_namespaces: frozenset[str]) -> Enrolment:
    """Decide. Label values are matched exactly: ``Ambient``, ``true`` or ``enabled`` mean nothing (A1)."""
    if pod.namespace in excluded_namespaces:
        return Enrolment(False, Reason.EXCLUDED_NAMESPACE)
    if pod.host_network:
        return Enrolment(False, Reason.HOST_NETWORK)
    if SIDECAR_STATUS in pod.annotations:
        return Enrolment(False, Reason.SIDECAR)
    own = pod.labels.get(DATAPLANE_MODE)
    if own == AMBIENT:
        return Enrolment(True, Reason.POD_LABEL)
    if own == NONE:
        return Enrolment(False, Reason.POD_OPTED_OUT)
    if namespace_labels.get(DATAPLANE_MODE) == AMBIENT:
        return Enrolment(True, Reason.NAMESPACE_LABEL)
    return Enrolment(False, Reason.NOT_LABELLED)


def redirection(annotations: Mapping[str, str], *, dns_capture: bool) -> Redirection:
    """What to redirect. ``dns_capture`` is the node agent's setting, which a pod's annotation overrides both ways.

    Values that are not booleans (Go's ParseBool) count as absent.
    """
    interfaces = annotations.get(VIRTUAL_INTERFACES, "")
    dns = annotations.get(DNS_CAPTURE)
    return Redirection(
        inbound=annotations.get(BYPASS_INBOUND) not in _TRUE,
        dns=dns in _TRUE or (dns_capture and dns not in _FALSE),
        virtual_interfaces=tuple(
            name for part in interfaces.split(",") if (name := part.strip()) and _is_link_name(name)
        ),
    )


def _is_link_name(name: str) -> bool:
    """Link names go into a ruleset, so only what Linux and nftables take unquoted meanings from is let through."""
    return len(name) <= 15 and all(c.isalnum() or c in "-_." for c in name)
