"""Options that several commands share, spelt as kubectl and istioctl spell them."""

from __future__ import annotations

import os
from typing import Annotated

import typer
import yaml

Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", "-c", help="kubeconfig file")]
Context = Annotated[str | None, typer.Option("--context", help="kubeconfig context")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="namespace; the context's own if not given")]
IstioNamespace = Annotated[str, typer.Option("--istioNamespace", "-i", help="namespace of istiod and ztunnel")]


def default_namespace(kubeconfig: str | None, context: str | None) -> str:
    """The namespace of the context in use, `default` if it has none."""
    paths = kubeconfig or os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    current = context
    for path in filter(None, paths.split(os.pathsep)):
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file) or {}
        current = current or config.get("current-context")
        for entry in config.get("contexts") or ():
            if entry.get("name") == current:
                return str(entry.get("context", {}).get("namespace") or "default")
    return "default"
