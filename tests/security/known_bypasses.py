"""Every known bypass of this kind of mesh (spec G), and what holds it here: rows of the conformance table by a part of their
group's name, tests by name, or the reason why it cannot arise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bypass:
    """``rows``: parts of group names. ``tests``: ``file::function``. ``absent``: why there is nothing to test."""

    name: str
    idea: str
    rows: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    absent: str = ""


_LIVE = "security/test_live_bypasses.py::"
_REFUSALS = "ztunnel/test_refusals.py::"
KNOWN = (
    Bypass("CVE-2020-8595", "an exact path defeated by ? or #", ("CVE-2020-8595",)),
    Bypass("CVE-2020-16844", "a DENY by a suffix misses TCP", ("CVE-2020-16844",)),
    Bypass("ISTIO-SECURITY-2021-004", "negative identity matches hold for plaintext", ("ISTIO-SECURITY-2021-004",)),
    Bypass("CVE-2021-31920", "repeated and escaped slashes", ("CVE-2021-31920",)),
    Bypass(
        "CVE-2021-31921", "a gateway reaches services that it was not meant for",
        tests=(_REFUSALS + "test_foreign_authority", _LIVE + "test_only_what_is_served_can_be_reached"),
    ),
    Bypass("CVE-2021-39155", "the case of a host, and its port", ("CVE-2021-39155",)),
    Bypass("CVE-2021-39156, CVE-2021-32779", "a fragment in the path", ("CVE-2021-39156",)),
    Bypass("CVE-2021-32777", "of a repeated header only the last value is asked about", ("CVE-2026-26308",)),
    Bypass("CVE-2023-27487", "a client sends x-envoy-original-path", tests=(_LIVE + "test_headers_that_proxies_believe",)),
    Bypass(
        "CVE-2023-27488, CVE-2023-27491, CVE-2023-27493", "broken headers pass",
        tests=(_LIVE + "test_broken_headers_are_refused_or_judged",),
    ),
    Bypass("CVE-2023-35944", "a scheme in mixed case", tests=(_LIVE + "test_http2_inside_the_tunnel",)),
    Bypass(
        "ISTIO-SECURITY-2024-006", "x-envoy headers of clients with private addresses are believed",
        ("the address that a client claims",), (_LIVE + "test_headers_that_proxies_believe",),
    ),
    Bypass("CVE-2026-26308", "several values of a header are matched as one", ("CVE-2026-26308",)),
    Bypass(
        "CVE-2026-31837", "no keys of an issuer, and a known key is taken instead",
        tests=("waypoint/test_tokens.py::test_an_issuer_without_usable_keys_has_no_valid_tokens",),
    ),
    Bypass(
        "CVE-2026-31838", "debug endpoints show other namespaces",
        tests=("istiod/test_publish.py::test_node_proxies_have_wds_and_nobody_else",
            "ca/test_istiod_server.py::test_no_configuration_for_others",),
    ),
    Bypass("CVE-2026-39350", "a dot in a service account's name is a wildcard", ("CVE-2026-39350",)),
    Bypass("GHSA-fgw5-hp8f-xfhc", "istiod fetches from wherever jwksUri says",
        tests=("security/test_admission.py::test_request_authentication_refused",)),
    Bypass("CVE-2026-47692", "PROXY protocol TLVs overflow", absent="no part of the mesh reads the PROXY protocol"),
    Bypass(
        "CVE-2026-47778", "a NUL byte in a certificate's name",
        tests=(
            "security/test_identity_and_mesh.py::test_what_is_no_identity",
            _REFUSALS + "test_identities_that_are_not_of_the_mesh",
        ),
    ),
    Bypass("ISTIO-SECURITY-2026-002", "a VirtualService takes over hosts of others", absent="there are no VirtualServices"),
    Bypass("by pod address", "the waypoint is gone around", ("a waypoint can be gone around", "does not guard the pod's own")),
    Bypass("by raw HBONE", "a client speaks to the pod's tunnel itself", ("what closes it, an ALLOW of the waypoint",),
           (_REFUSALS + "test_forged_headers_do_not_make_an_identity",)),
    Bypass("from outside", "a client outside of the mesh skips the waypoint", ("skip every waypoint",)),
    Bypass("missing waypoint", "policies with targetRefs are enforced by nobody", ("whose waypoint is missing",)),
    Bypass("HTTP fields at ztunnel", "a DENY has no effect", ("a DENY of HTTP fields alone", "a DENY by HTTP fields alone")),
    Bypass("trustDomains at ztunnel", "the field is ignored", ("a trust domain in an ALLOW", "a trust domain in a DENY")),
    Bypass(
        "ports of the proxies", "admin and own ports through CONNECT",
        tests=(_REFUSALS + "test_own_ports_are_no_target", _LIVE + "test_only_what_is_served_can_be_reached"),
    ),
    Bypass("another pod's authority", "a tunnel leads to a neighbour", tests=(_REFUSALS + "test_foreign_authority",)),
    Bypass("probes' address", "a pod sends from 169.254.7.127",
        tests=("network/test_network_live.py::test_a_pod_cannot_speak_in_anothers_name",)),
    Bypass("host with a dot", "a trailing dot or a look-alike ending", ("a trailing dot", "the dot by a prefix", "only ends like")),
    Bypass("HEAD", "HEAD is not GET", ("HEAD is not GET", "headIsGet in DENY")),
    Bypass(
        "open connections", "a changed policy misses them",
        tests=("security/test_live_waypoint.py::test_engine_and_waypoint_agree",
               "security/test_live_ztunnel.py::test_engine_and_node_proxy_agree"),
    ),
    Bypass("change of hands", "a policy loses force between waypoint and ztunnel", ("a star in the middle", "of an alias")),
)  # fmt: skip
