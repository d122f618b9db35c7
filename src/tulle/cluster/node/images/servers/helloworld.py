"""Istio's helloworld sample: `GET /hello` on port 5000 says which version and which pod answered."""

from __future__ import annotations

import os

from tulle.cluster.node.images.servers.http import Answer, Request, serve

PORT = 5000


def answer(request: Request) -> Answer:
    """HEAD is answered like GET, without the body; other methods are not allowed, other paths not there."""
    if request.path not in {"/hello", "/health"}:
        return Answer(404, b"Not Found\n")
    if request.method not in {"GET", "HEAD", "OPTIONS"}:
        return Answer(405, b"Method Not Allowed\n", headers={"Allow": "GET, HEAD, OPTIONS"})
    if request.method == "OPTIONS":
        return Answer(200, headers={"Allow": "GET, HEAD, OPTIONS"})
    if request.path == "/health":
        return Answer(200, b"Helloworld is healthy")
    version, instance = os.environ.get("SERVICE_VERSION", "unknown"), os.environ.get("HOSTNAME", "unknown")
    return Answer(200, f"Hello version: {version}, instance: {instance}\n".encode())


if __name__ == "__main__":
    serve(PORT, answer, "gunicorn")
