"""An istiod for tests: a real delta ADS server and a real certificate authority over TLS, and state set by hand."""

from __future__ import annotations

import datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import grpc

from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import Authority, Roots
from tulle.xds import types
from tulle.xds.proto import authorization_pb2, ca_pb2, workload_pb2
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AdsServer

TOKEN = "node-token"


class FakeIstiod:
    """Serves on 127.0.0.1; `port` stays the same over `stop` and `start`."""

    def __init__(self, directory: Path) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.root = shapes.self_signed_root("cluster.local", now, datetime.timedelta(days=1))
        self.signer = shapes.intermediate(self.root, "cluster.local", now, datetime.timedelta(days=1))
        self.authority = Authority(Roots((self.root.certificate,), signer=self.signer))
        self.root_path = directory / "root-cert.pem"
        self.root_path.write_text(self.authority.root_pem)
        self.token_path = directory / "token"
        self.token_path.write_text(TOKEN)
        self.addresses = ResourceMap(types.ADDRESS)
        self.policies = ResourceMap(types.AUTHORIZATION)
        self.signing = True
        self.signed: list[str] = []
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        maps = {types.ADDRESS: self.addresses, types.AUTHORIZATION: self.policies}
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        AdsServer(lambda _, type_url: maps.get(type_url)).add_to(self._server)
        method = grpc.unary_unary_rpc_method_handler(
            self._sign,
            request_deserializer=ca_pb2.IstioCertificateRequest.FromString,
            response_serializer=ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        service = "istio.v1.auth.IstioCertificateService"
        handler = grpc.method_handlers_generic_handler(service, {"CreateCertificate": method})
        self._server.add_generic_rpc_handlers((handler,))
        serving = self.authority.serving(["localhost", "127.0.0.1"])
        credentials = grpc.ssl_server_credentials([(serving.key, serving.chain)])
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def _sign(self, request: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        if metadata.get("authorization") != f"Bearer {TOKEN}" or not self.signing:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
        identity = request.metadata.fields["ImpersonatedIdentity"].string_value
        self.signed.append(identity)
        lifetime = datetime.timedelta(seconds=request.validity_duration)
        chain = self.authority.sign(request.csr.encode(), identity, lifetime)
        return ca_pb2.IstioCertificateResponse(cert_chain=chain)

    # -- state --------------------------------------------------------------------------------------------------------

    def workload(self, name: str, namespace: str, ip: str, **more: Any) -> workload_pb2.Workload:
        uid = more.pop("uid", f"Kubernetes//Pod/{namespace}/{name}")
        services = more.pop("services", {})
        workload = workload_pb2.Workload(
            uid=uid,
            name=name,
            namespace=namespace,
            addresses=[ip_address(address).packed for address in (ip, *more.pop("also", ()))],
            tunnel_protocol=more.pop("tunnel_protocol", workload_pb2.HBONE),
            service_account=more.pop("service_account", "default"),
            node=more.pop("node", "node1"),
            **more,
        )
        for key, ports in services.items():
            for service_port, target_port in ports.items():
                workload.services[key].ports.add(service_port=service_port, target_port=target_port)
        self.addresses.set(uid, workload_pb2.Address(workload=workload), [f"/{ip}"])
        return workload

    def service(self, namespace: str, name: str, vip: str, ports: dict[int, int], **more: Any) -> workload_pb2.Service:
        hostname = f"{name}.{namespace}.svc.cluster.local"
        protocol = more.pop("app_protocol", workload_pb2.UNKNOWN)
        explain = more.pop("explain", False)
        service = workload_pb2.Service(
            name=name,
            namespace=namespace,
            hostname=hostname,
            addresses=[workload_pb2.NetworkAddress(address=ip_address(vip).packed)],
            ports=[
                workload_pb2.Port(service_port=port, target_port=target, app_protocol=protocol)
                for port, target in ports.items()
            ],
            **more,
        )
        if explain:
            service.extensions.add(name="tulle.explainRefusals")
        self.addresses.set(f"{namespace}/{hostname}", workload_pb2.Address(service=service), [f"/{vip}"])
        return service

    def remove(self, name: str) -> None:
        self.addresses.remove(name)

    def policy(self, namespace: str, name: str, action: str, *rules: Any, scope: str = "WORKLOAD_SELECTOR") -> None:
        """Each rule is a list of clauses, each a list of Match."""
        message = authorization_pb2.Authorization(
            name=name,
            namespace=namespace,
            scope=authorization_pb2.Scope.Value(scope),
            action=authorization_pb2.Action.Value(action),
        )
        for clauses in rules:
            rule = message.rules.add()
            for matches in clauses:
                rule.clauses.add(matches=matches)
        self.policies.set(f"{namespace}/{name}", message)

    def no_policy(self, namespace: str, name: str) -> None:
        self.policies.remove(f"{namespace}/{name}")


def exact(text: str) -> authorization_pb2.StringMatch:
    return authorization_pb2.StringMatch(exact=text)


def plaintext() -> authorization_pb2.Match:
    """A match that holds for peers without an identity."""
    anyone = authorization_pb2.StringMatch()
    anyone.presence.SetInParent()
    return authorization_pb2.Match(not_principals=[anyone])


def cidr(text: str) -> authorization_pb2.Address:
    network = ip_network(text)
    return authorization_pb2.Address(address=network.network_address.packed, length=network.prefixlen)
