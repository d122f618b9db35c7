"""`istioctl`: the commands that users of Istio ambient type, against any Kubernetes API.

It needs nothing but the API, so the stock `istioctl` works in its place and it works on a stock Istio.
"""

from __future__ import annotations

from typing import Annotated

import typer

from tulle.cli import authz_check, cobra, describe, proxy_config, proxy_status, version, waypoint, ztunnel_config
from tulle.cli.analyze.command import analyze_
from tulle.cli.options import Context, Kubeconfig

app = typer.Typer(
    name="istioctl",
    cls=cobra.CobraGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Istio configuration command line utility",
)
cobra.group(app, waypoint.app, "waypoint")
cobra.group(app, ztunnel_config.app, "ztunnel-config", "zc")
cobra.group(app, proxy_config.app, "proxy-config", "pc")
cobra.command(app, "proxy-status", "ps")(proxy_status.show)
cobra.command(app, "analyze")(analyze_)

experimental = typer.Typer(no_args_is_help=True, help="Experimental commands that may be modified or deprecated")
cobra.group(experimental, authz_check.app, "authz")
cobra.group(experimental, describe.app, "describe", "des")
cobra.group(app, experimental, "experimental", "x", "exp")


@app.command("version")
def version_(
    remote: Annotated[bool, typer.Option("--remote/--no-remote", help="ask the cluster too")] = True,
    short: Annotated[bool, typer.Option("--short", "-s", help="versions only")] = True,
    output: Annotated[str, typer.Option("--output", "-o", help="yaml or json")] = "",
    istio_namespace: Annotated[str, typer.Option("--istioNamespace", "-i", help="istiod's namespace")] = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print the versions of this client, the control plane and the proxies."""
    version.show(
        remote=remote, short=short, output=output, namespace=istio_namespace, kubeconfig=kubeconfig, context=context
    )


if __name__ == "__main__":
    app()
