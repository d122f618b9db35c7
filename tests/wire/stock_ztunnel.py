"""What a stock ztunnel says on the wire (spec E4, E6), written from the public protobufs alone.

Nothing of the mesh's own code is used: if istiod satisfies this client, it satisfies any that keeps to the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import struct_pb2
from google.rpc import status_pb2

from tulle.xds.proto import authorization_pb2, ca_pb2, workload_pb2

ADDRESS = "type.googleapis.com/istio.workload.Address"
WORKLOAD = "type.googleapis.com/istio.workload.Workload"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
MESSAGES = {
    ADDRESS: workload_pb2.Address,
    WORKLOAD: workload_pb2.Workload,
    AUTHORIZATION: authorization_pb2.Authorization,
}
NAME = "istiod.istio-system.svc"
PATIENCE = 60.0


@dataclass(frozen=True)
class Proxy:
    """A ztunnel pod and the token that it was given."""

    pod: str
    node: str
    token: str = ""
    namespace: str = "istio-system"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("clusterid", "Kubernetes"), *((("authorization", f"Bearer {self.token}"),) if self.token else ()))

    def xds_node(self) -> base_pb2.Node:
        told = {"NAME": self.pod, "NAMESPACE": self.namespace, "INSTANCE_IPS": "10.1.0.9", "NODE_NAME": self.node}
        node = base_pb2.Node(id=f"ztunnel~10.1.0.9~{self.pod}.{self.namespace}~{self.namespace}.svc.cluster.local")
        node.metadata.update(told)
        return node


def channel(port: int, root: bytes) -> grpc.aio.Channel:
    """TLS, the server known by its name and the mesh's root; there is no plaintext."""
    options = (("grpc.ssl_target_name_override", NAME),)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(root), options)


@dataclass
class Stream:
    """One delta stream. `held` is what a client has of each type: name -> (version, message)."""

    call: Any
    proxy: Proxy
    held: dict[str, dict[str, tuple[str, Any]]] = field(default_factory=dict)
    responses: list[Any] = field(default_factory=list)
    removed: dict[str, list[str]] = field(default_factory=dict)
    refuse: Callable[[Any], str] = lambda _response: ""

    @classmethod
    def open(cls, over: grpc.aio.Channel, proxy: Proxy) -> Stream:
        method = over.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )
        return cls(method(metadata=proxy.metadata()), proxy)

    async def ask(
        self,
        type_url: str,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """A request; the first one of the stream says who asks."""
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_url,
            resource_names_subscribe=subscribe,
            resource_names_unsubscribe=unsubscribe,
            initial_resource_versions=versions or {},
            node=self.proxy.xds_node(),
        )
        await self.call.write(request)

    async def receive(self) -> Any:
        """The next response, taken over and acknowledged (or refused)."""
        async with asyncio.timeout(PATIENCE):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, "the stream ended"
        self.responses.append(response)
        answer = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        error = self.refuse(response)
        if error:
            answer.error_detail.CopyFrom(status_pb2.Status(code=3, message=error))
        else:
            self._take(response)
        await self.call.write(answer)
        return response

    def _take(self, response: Any) -> None:
        held = self.held.setdefault(response.type_url, {})
        for one in response.resources:
            assert one.resource.type_url == response.type_url
            message = MESSAGES[response.type_url].FromString(one.resource.value)
            held[one.name] = (one.version, message)
        for name in response.removed_resources:
            held.pop(name, None)
        self.removed.setdefault(response.type_url, []).extend(response.removed_resources)

    async def until(self, true: Callable[[], bool]) -> None:
        """Go on receiving until it holds."""
        while not true():
            await self.receive()

    async def quiet(self, seconds: float = 0.3) -> bool:
        """Whether the server has nothing to say for that long."""
        reading = asyncio.ensure_future(self.call.read())
        done, _ = await asyncio.wait((reading,), timeout=seconds)
        if done:
            return False
        self.call.cancel()
        await asyncio.wait((reading,))
        return True

    def names(self, type_url: str) -> set[str]:
        return set(self.held.get(type_url, {}))

    def message(self, type_url: str, name: str) -> Any:
        return self.held[type_url][name][1]

    def versions(self, type_url: str) -> dict[str, str]:
        return {name: version for name, (version, _) in self.held[type_url].items()}


@dataclass(frozen=True)
class Csr:
    """A key and the request for its certificate."""

    key: ec.EllipticCurvePrivateKey
    pem: str

    @classmethod
    def make(cls, identity: str) -> Csr:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        request = (
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
        )
        return cls(key, request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())


async def sign(
    over: grpc.aio.Channel, proxy: Proxy, csr: Csr, identity: str = "", seconds: int = 86400
) -> tuple[x509.Certificate, ...]:
    """CreateCertificate; with an identity the caller asks for somebody else's (spec E4). Raises AioRpcError."""
    method = over.unary_unary(
        "/istio.v1.auth.IstioCertificateService/CreateCertificate",
        request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
        response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
    )
    metadata = struct_pb2.Struct()
    if identity:
        metadata.update({"ImpersonatedIdentity": identity})
    request = ca_pb2.IstioCertificateRequest(csr=csr.pem, validity_duration=seconds, metadata=metadata)
    answer = await method(request, metadata=proxy.metadata(), timeout=PATIENCE)
    return tuple(x509.load_pem_x509_certificate(pem.encode()) for pem in answer.cert_chain)
