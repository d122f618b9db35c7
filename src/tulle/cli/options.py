"""Options that several commands share, spelt as kubectl and istioctl spell them."""

from __future__ import annotations

from typing import Annotated

import typer

from tulle.cli import console
from tulle.kube.config import ConfigError, namespace_of

Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", "-c", help="kubeconfig file")]
Context = Annotated[str | None, typer.Option("--context", help="kubeconfig context")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="namespace; the context's own if not given")]
IstioNamespace = Annotated[str, typer.Option("--istioNamespace", "-i", help="namespace of istiod and ztunnel")]


def default_namespace(kubeconfig: str | None, context: str | None) -> str:
    """The namespace of the context in use, `default` if it has none. Ends the command for a kubeconfig that cannot be read."""
    try:
        return namespace_of(kubeconfig, context)
    except ConfigError as error:
        console.fail(str(error))
