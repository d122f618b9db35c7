"""Section A1 as a table, and the properties that hold for any pod."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cni.enrolment import (
    BYPASS_INBOUND,
    DATAPLANE_MODE,
    DNS_CAPTURE,
    SIDECAR_STATUS,
    VIRTUAL_INTERFACES,
    PodFacts,
    Reason,
    enrolment,
    redirection,
)

EXCLUDED = frozenset({"kube-system", "istio-system"})
MODE = DATAPLANE_MODE


def facts(namespace: str = "shop", mode: str | None = None, *, host: bool = False, **annotations: str) -> PodFacts:
    return PodFacts(namespace, {MODE: mode} if mode is not None else {}, annotations, host)


@pytest.mark.parametrize(
    ("pod", "namespace_mode", "captured", "reason"),
    [
        (facts(), None, False, Reason.NOT_LABELLED),
        (facts(), "ambient", True, Reason.NAMESPACE_LABEL),
        (facts(), "Ambient", False, Reason.NOT_LABELLED),
        (facts(), "enabled", False, Reason.NOT_LABELLED),
        (facts(), "true", False, Reason.NOT_LABELLED),
        (facts(), "none", False, Reason.NOT_LABELLED),
        (facts(mode="ambient"), None, True, Reason.POD_LABEL),
        (facts(mode="ambient"), "none", True, Reason.POD_LABEL),
        (facts(mode="none"), "ambient", False, Reason.POD_OPTED_OUT),
        (facts(mode="None"), "ambient", True, Reason.NAMESPACE_LABEL),
        (facts(mode=""), "ambient", True, Reason.NAMESPACE_LABEL),
        (facts(mode="Ambient"), None, False, Reason.NOT_LABELLED),
        (facts(mode="ambient", host=True), "ambient", False, Reason.HOST_NETWORK),
        (PodFacts("shop", {MODE: "ambient"}, {SIDECAR_STATUS: ""}), "ambient", False, Reason.SIDECAR),
        (PodFacts("shop", {}, {"sidecar.istio.io/inject": "true"}), "ambient", True, Reason.NAMESPACE_LABEL),
        (facts("kube-system", "ambient"), "ambient", False, Reason.EXCLUDED_NAMESPACE),
        (facts("istio-system", "ambient", host=True), "ambient", False, Reason.EXCLUDED_NAMESPACE),
    ],
)
def test_table(pod: PodFacts, namespace_mode: str | None, captured: bool, reason: Reason) -> None:
    labels = {MODE: namespace_mode} if namespace_mode is not None else {}
    decided = enrolment(pod, labels, EXCLUDED)
    assert (decided.captured, decided.reason) == (captured, reason)


modes = st.one_of(
    st.none(), st.sampled_from(["ambient", "none", "Ambient", "enabled", "true", "", " ambient"]), st.text(max_size=8)
)
pods = st.builds(
    lambda namespace, mode, sidecar, host: PodFacts(
        namespace, {MODE: mode} if mode is not None else {}, {SIDECAR_STATUS: "x"} if sidecar else {}, host
    ),
    st.sampled_from(["shop", "kube-system", "istio-system"]),
    modes,
    st.booleans(),
    st.booleans(),
)


@given(pods, modes)
def test_capture_means_one_exact_label_and_none_of_the_exceptions(pod: PodFacts, namespace_mode: str | None) -> None:
    captured = enrolment(pod, {MODE: namespace_mode} if namespace_mode is not None else {}, EXCLUDED).captured
    own = pod.labels.get(MODE)
    wanted = own == "ambient" or (namespace_mode == "ambient" and own != "none")
    excepted = pod.namespace in EXCLUDED or pod.host_network or SIDECAR_STATUS in pod.annotations
    assert captured == (wanted and not excepted)


@pytest.mark.parametrize(
    ("value", "inbound"), [("true", False), ("1", False), ("TRUE", False), ("false", True), ("yes", True)]
)
def test_bypass_of_inbound_capture(value: str, inbound: bool) -> None:
    assert redirection({BYPASS_INBOUND: value}, dns_capture=False).inbound is inbound


def test_a_pods_annotation_overrides_dns_capture_both_ways() -> None:
    assert redirection({DNS_CAPTURE: "true"}, dns_capture=False).dns
    assert not redirection({DNS_CAPTURE: "sometimes"}, dns_capture=False).dns
    assert redirection({}, dns_capture=True).dns
    assert not redirection({DNS_CAPTURE: "false"}, dns_capture=True).dns


def test_interface_names_that_could_end_a_rule_are_left_out() -> None:
    wanted = redirection({VIRTUAL_INTERFACES: 'tap0, br-vm ,x";drop,averyveryverylongname'}, dns_capture=False)
    assert wanted.virtual_interfaces == ("tap0", "br-vm")
