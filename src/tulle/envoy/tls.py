"""Mutual TLS between proxies: TLS 1.3 only, ALPN h2, SPIFFE identities as URI SANs, every key and root by SDS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import json_format

from tulle.envoy.wire import from_ads, pack, pack_untyped

ROOT_SECRET: Final = "ROOTCA"  # noqa: S105 (a name)
_TLS_1_3: Final = common_pb2.TlsParameters.TLSv1_3
_EXTENSIONS: Final = "envoy.extensions.transport_sockets.tls."


def mutual_server(certificate: str, trust_domain: str) -> base_pb2.TransportSocket:
    """Downstream TLS that presents the SDS secret `certificate` and demands a peer of `trust_domain`.

    The listener serves nothing until the secret and the root have arrived.
    """
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    context.disable_stateless_session_resumption = True
    context.disable_stateful_session_resumption = True
    common = context.common_tls_context
    _common(common)
    common.tls_certificate_sds_secret_configs.append(_sds(certificate))
    own_domain = string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/")
    _validate(common, [own_domain])
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def mutual_client(peers: Sequence[str]) -> base_pb2.TransportSocket:
    """Upstream TLS that accepts exactly the SPIFFE URIs `peers`.

    It presents the secret that the connection's filter state names (`filter_state.client_certificate`), asked for on
    demand; without such an object it asks for a secret that never exists, so the handshake cannot succeed.
    The secret must not be one that a listener uses too: Envoy gives a second subscriber to one name no answer.
    """
    if not peers:
        raise ValueError("mutual_client: an upstream without an expected identity cannot be verified")
    context = tls_pb2.UpstreamTlsContext()
    common = context.common_tls_context
    _common(common)
    _validate(common, [string_pb2.StringMatcher(exact=peer) for peer in peers])
    mapper = pack_untyped(_EXTENSIONS + "cert_mappers.filter_state_override.v3.Config", {"default_value": "none"})
    common.custom_tls_certificate_selector.name = "envoy.tls.certificate_selectors.on_demand_secret"
    common.custom_tls_certificate_selector.typed_config.CopyFrom(
        pack_untyped(
            _EXTENSIONS + "cert_selectors.on_demand_secret.v3.Config",
            {
                "config_source": json_format.MessageToDict(from_ads(), preserving_proto_field_name=True),
                "certificate_mapper": {
                    "name": "envoy.tls.upstream_certificate_mappers.filter_state_override",
                    "typed_config": json_format.MessageToDict(mapper),
                },
            },
        )
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def one_client(certificate: str, trust_domain: str) -> base_pb2.TransportSocket:
    """Upstream TLS of a proxy that has one identity: presents the SDS secret `certificate` and accepts `trust_domain`.

    Which peer of the trust domain a connection must reach is said by its filter state, as the one SAN to accept.
    """
    context = tls_pb2.UpstreamTlsContext()
    common = context.common_tls_context
    _common(common)
    common.tls_certificate_sds_secret_configs.append(_sds(certificate))
    _validate(common, [string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/")])
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def plaintext() -> base_pb2.TransportSocket:
    """No TLS."""
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=pack(raw_buffer_pb2.RawBuffer())
    )


def after_proxy_header() -> base_pb2.TransportSocket:
    """No TLS, but a PROXY header (version 2) first: the ends of the accepted connection, and the TLVs it carries."""
    config = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(transport_socket=plaintext())
    config.config.version = proxy_protocol_pb2.ProxyProtocolConfig.V2
    config.config.pass_through_tlvs.match_type = proxy_protocol_pb2.ProxyProtocolPassThroughTLVs.INCLUDE_ALL
    return base_pb2.TransportSocket(name="envoy.transport_sockets.upstream_proxy_protocol", typed_config=pack(config))


def internal_upstream(*metadata: str) -> base_pb2.TransportSocket:
    """For endpoints that are internal listeners: hands the connection's shared filter state over to them.

    The endpoint's metadata under the names `metadata` goes along, as dynamic metadata of the accepted connection.
    """
    config = internal_upstream_pb2.InternalUpstreamTransport(transport_socket=plaintext())
    for name in metadata:
        config.passthrough_metadata.add(name=name).kind.host.SetInParent()
    return base_pb2.TransportSocket(name="envoy.transport_sockets.internal_upstream", typed_config=pack(config))


def _common(common: tls_pb2.CommonTlsContext) -> None:
    common.alpn_protocols.append("h2")
    common.tls_params.tls_minimum_protocol_version = _TLS_1_3
    common.tls_params.tls_maximum_protocol_version = _TLS_1_3


def _sds(name: str) -> secret_pb2.SdsSecretConfig:
    return secret_pb2.SdsSecretConfig(name=name, sds_config=from_ads())


def _validate(common: tls_pb2.CommonTlsContext, identities: Sequence[string_pb2.StringMatcher]) -> None:
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(_sds(ROOT_SECRET))
    for matcher in identities:
        combined.default_validation_context.match_typed_subject_alt_names.append(
            common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI, matcher=matcher)
        )
