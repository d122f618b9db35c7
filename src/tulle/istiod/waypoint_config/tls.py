"""TLS of the waypoint: TLS 1.3 both ways, its own SVID by SDS, peers checked against the mesh's root and their SPIFFE URI."""

from __future__ import annotations

from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import wrappers_pb2

from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.pack import pack


def sds(name: str) -> secret_pb2.SdsSecretConfig:
    """An SDS reference, answered on the same stream as the rest by the agent beside the proxy: keys never come from istiod."""
    source = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)


def _common(identity: str, peer: string_pb2.StringMatcher) -> tls_pb2.CommonTlsContext:
    uri = common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI, matcher=peer)
    combined = tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=[uri]),
        validation_context_sds_secret_config=sds(names.ROOT_CA),
    )
    version = common_pb2.TlsParameters.TLSv1_3
    return tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(tls_minimum_protocol_version=version, tls_maximum_protocol_version=version),
        tls_certificate_sds_secret_configs=[sds(identity)],
        combined_validation_context=combined,
        alpn_protocols=["h2"],
    )


def downstream(identity: str, trust_domain: str) -> base_pb2.TransportSocket:
    """Server side of HBONE: a client certificate of the mesh's trust domain is required (spec D4)."""
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_common(identity, string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/")),
        require_client_certificate=wrappers_pb2.BoolValue(value=True),
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def upstream(identity: str, trust_domain: str) -> base_pb2.TransportSocket:
    """Client side of HBONE: the mesh's trust domain, and besides it the one SPIFFE URI that each connection's filter state names."""
    context = tls_pb2.UpstreamTlsContext(
        common_tls_context=_common(identity, string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/")),
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def socket_address(address: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))
