"""How many certificates the authority issues: `python -m bench.certificates`. On one core, and as a service over gRPC.

The service is measured by its own CPU, since the clients of the measurement use the machine too: a rate per second of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench import report
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, Roots, utc_now
from tulle.istiod.ca.callers import Caller
from tulle.istiod.ca.impersonation import PodIndex
from tulle.istiod.ca.limiter import RateLimiter
from tulle.istiod.ca.service import METHOD, CertificateService
from tulle.security.identity import Identity
from tulle.xds.proto import ca_pb2

IDENTITY = Identity("cluster.local", "shop", "cart")
_AT_ONCE = 20


def authority() -> Authority:
    """An authority with a root of its own."""
    root = shapes.self_signed_root("bench", utc_now(), ROOT_LIFETIME)
    return Authority(Roots((root.certificate,), root=root))


def request() -> bytes:
    """A signing request on a key of its own."""
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(IDENTITY.spiffe)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(name, critical=False)
    made = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def alone(requests: Sequence[bytes]) -> float:
    """Requests per second of CPU, checked and signed in this process."""
    signer = authority()
    began = time.process_time()
    for csr in requests:
        signer.sign(csr, IDENTITY.spiffe, timedelta(hours=24))
    return len(requests) / (time.process_time() - began)


class _Known:
    """Every caller is the account that the requests are for."""

    async def caller(self, _context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
        return Caller(IDENTITY, "cart-1", "uid", "node1")


def _ask(socket: str, requests: Sequence[bytes]) -> None:
    async def run() -> None:
        async with grpc.aio.insecure_channel(socket) as channel:
            call = channel.unary_unary(
                METHOD,
                request_serializer=ca_pb2.IstioCertificateRequest.SerializeToString,
                response_deserializer=ca_pb2.IstioCertificateResponse.FromString,
            )

            async def one(part: Sequence[bytes]) -> None:
                for csr in part:
                    await call(ca_pb2.IstioCertificateRequest(csr=csr.decode(), validity_duration=86400))

            await asyncio.gather(*(one(requests[start::_AT_ONCE]) for start in range(_AT_ONCE)))

    asyncio.run(run())


async def served(requests: Sequence[bytes], socket: Path) -> float:
    """Requests per second of the service's CPU, each an RPC; the clients are a process of their own."""
    served = 0

    def count(_: str) -> None:
        nonlocal served
        served += 1

    limiter = RateLimiter(rate=1e9, burst=10**9)
    service = CertificateService(authority(), _Known(), PodIndex(), limiter=limiter, on_result=count)  # type: ignore[arg-type]
    rpc = grpc.aio.server()
    rpc.add_generic_rpc_handlers((service.handler(),))
    rpc.add_insecure_port(f"unix:{socket}")
    await rpc.start()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_ask, args=(f"unix:{socket}", requests))
    process.start()
    began = time.process_time()
    await asyncio.to_thread(process.join)
    used = time.process_time() - began
    await rpc.stop(None)
    return served / used


def measure(number: int, folder: Path) -> dict[str, float]:
    """Both rates."""
    requests = [request() for _ in range(number)]
    return {"alone": alone(requests), "served": asyncio.run(served(requests, folder / "ca.sock"))}


def table(result: dict[str, float]) -> str:
    rows = (
        ("check a request and sign it", f"{result['alone']:,.0f}"),
        ("the same as an RPC (without TLS)", f"{result['served']:,.0f}"),
    )
    return report.table(("", "certificates/s of one core"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    parser = argparse.ArgumentParser(prog="python -m bench.certificates", description=__doc__)
    parser.add_argument("--number", type=int, default=5000)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(chosen.number, Path(folder))
    print(table(result))
    report.save("certificates", result)
    report.write("certificates", table(result))


if __name__ == "__main__":
    main()
