"""External authorizers as a user would write them: one over HTTP, one over Envoy's gRPC API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
from aiohttp import web
from envoy.service.auth.v3 import external_auth_pb2

HTTP_PORT, GRPC_PORT = 9191, 9192


@dataclass
class HttpAuthorizer:
    """Answers by `decide`, a response for each question."""

    decide: Callable[[web.Request], web.Response] = lambda _: web.Response()
    asked: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)

    async def _answer(self, request: web.Request) -> web.Response:
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        self.asked.append((request.method, request.raw_path, headers))
        return self.decide(request)

    def header_asked(self, name: str) -> list[str]:
        return [value for key, value in self.asked[-1][2] if key == name]

    @contextlib.asynccontextmanager
    async def serving(self, host: str) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, HTTP_PORT).start()
        try:
            yield
        finally:
            await runner.cleanup()


@dataclass
class GrpcAuthorizer:
    """Allows what `decide` says."""

    decide: Callable[[external_auth_pb2.CheckRequest], bool] = lambda _: True
    asked: list[external_auth_pb2.CheckRequest] = field(default_factory=list)

    async def _check(self, request: external_auth_pb2.CheckRequest, _: object) -> external_auth_pb2.CheckResponse:
        self.asked.append(request)
        response = external_auth_pb2.CheckResponse()
        response.status.code = 0 if self.decide(request) else 7
        return response

    @contextlib.asynccontextmanager
    async def serving(self, host: str) -> AsyncIterator[None]:
        method = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=external_auth_pb2.CheckRequest.FromString,
            response_serializer=external_auth_pb2.CheckResponse.SerializeToString,
        )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": method}),)
        )
        server.add_insecure_port(f"{host}:{GRPC_PORT}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)
