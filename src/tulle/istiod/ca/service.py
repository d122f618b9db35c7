"""The signing service as node proxies and waypoints call it: istio.v1.auth.IstioCertificateService (E4).

Whoever is refused learns that and no more; the log has the reason with every name in it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import grpc
import structlog
from google.protobuf.struct_pb2 import Struct

from tulle.istiod.ca.authority import Authority, AuthorityError, CsrError
from tulle.istiod.ca.callers import Authenticator, Caller, NotAuthenticated
from tulle.istiod.ca.impersonation import TRUSTED_NODE_ACCOUNTS, NotAllowed, Pods, may_impersonate
from tulle.istiod.ca.limiter import RateLimiter
from tulle.security.identity import Identity, InvalidIdentity
from tulle.xds.proto import ca_pb2

_log = structlog.get_logger(__name__)

SERVICE: Final = "istio.v1.auth.IstioCertificateService"
METHOD: Final = f"/{SERVICE}/CreateCertificate"

_OPAQUE: Final = "request authenticate failure"
_MAX_SECONDS: Final = 10 * 365 * 24 * 3600


class CertificateService:
    """``CreateCertificate``. ``on_result`` is told "success" or the kind of refusal of each call (for metrics)."""

    def __init__(
        self,
        authority: Authority,
        authenticator: Authenticator,
        pods: Pods,
        *,
        trusted: frozenset[tuple[str, str]] = TRUSTED_NODE_ACCOUNTS,
        limiter: RateLimiter | None = None,
        on_result: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._authority = authority
        self._authenticator = authenticator
        self._pods = pods
        self._trusted = trusted
        self._limiter = limiter or RateLimiter(rate=100.0, burst=500)
        self._on_result = on_result

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service as a handler, for ``add_generic_rpc_handlers``."""
        method = grpc.unary_unary_rpc_method_handler(
            self.create,
            request_deserializer=ca_pb2.IstioCertificateRequest.FromString,
            response_serializer=ca_pb2.IstioCertificateResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": method})

    async def create(
        self, request: ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ca_pb2.IstioCertificateResponse:
        """Answer one request."""
        try:
            caller = await self._authenticator.caller(context)
            if not self._limiter.take((caller.identity, caller.pod_uid)):
                return await self._refuse(
                    context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests", "rate_limited", str(caller)
                )
            identity = self._identity(caller, request)
            chain = self._authority.sign(request.csr.encode(), identity.spiffe, _lifetime(request.validity_duration))
        except (NotAuthenticated, NotAllowed, InvalidIdentity) as error:
            return await self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, _OPAQUE, "unauthenticated", str(error))
        except CsrError as error:
            # The caller is known here, and may know what is wrong with what it sent.
            return await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error), "csr", str(error))
        except AuthorityError as error:
            return await self._refuse(context, grpc.StatusCode.INTERNAL, "signing failed", "authority", str(error))
        self._on_result("success")
        _log.debug("certificate_signed", identity=identity.spiffe, caller=caller.identity.spiffe, pod=caller.pod_name)
        return ca_pb2.IstioCertificateResponse(cert_chain=chain)

    def _identity(self, caller: Caller, request: ca_pb2.IstioCertificateRequest) -> Identity:
        impersonated = _impersonated(request.metadata)
        if not impersonated:
            return caller.identity
        wanted = Identity.parse(impersonated)
        may_impersonate(caller, wanted, self._pods, self._trusted)
        return wanted

    async def _refuse(
        self, context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, told: str, kind: str, reason: str
    ) -> ca_pb2.IstioCertificateResponse:
        self._on_result(kind)
        _log.warning("certificate_refused", kind=kind, reason=reason, address=context.peer())
        await context.abort(code, told)


def _impersonated(metadata: Struct) -> str:
    value = metadata.fields.get("ImpersonatedIdentity")
    return "" if value is None else value.string_value


def _lifetime(seconds: int) -> timedelta | None:
    return timedelta(seconds=min(seconds, _MAX_SECONDS)) if seconds > 0 else None
