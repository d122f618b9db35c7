"""`tulle manifest generate`, `tulle install` and `tulle uninstall`: the mesh on any Kubernetes, from the manifests that `tulle up` uses.

Two things of an existing cluster are respected. Custom resources that somebody else has installed (the Gateway API's, or Istio's) stay as
they are, since a cluster has one definition of each. And nothing is removed under pods that are captured: their traffic goes to a ztunnel
that would not be there any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
import yaml

from tulle import manifests
from tulle.cli import applying, console
from tulle.cli.applying import FIELD_MANAGER, Document
from tulle.cli.console import CommandError
from tulle.cli.options import Context, Kubeconfig
from tulle.kube import resources as r
from tulle.kube.client import Client
from tulle.kube.errors import NotFound

PUBLISHED = ("istio-ca-root-cert", "istio-ca-crl")
_PATIENCE = 90.0
_POLL = 0.1
_CAPTURED = "ambient.istio.io/redirection"
_OUR_CONTROLLER = "istio.io/mesh-controller"

manifest = typer.Typer(no_args_is_help=True, help="The Kubernetes objects of an installation.")

Profile = Annotated[str, typer.Option("--profile", help=f"one of {', '.join(sorted(manifests.PROFILES))}")]
Image = Annotated[str, typer.Option("--image", help="the image that every part of the mesh runs")]
Where = Annotated[str, typer.Option("--istioNamespace", "-i", help="the mesh's own namespace")]
DnsCapture = Annotated[
    bool,
    typer.Option(
        "--dns-capture/--no-dns-capture", help="resolve the mesh's names, such as ServiceEntry hosts, for captured pods"
    ),
]
TrustDomain = Annotated[str, typer.Option("--trust-domain", help="trust domain of every identity")]
_DEFAULT = manifests.Values(profile="lesson")


class _Plain(yaml.SafeDumper):
    """YAML that says everything in full, and text of several lines as it is."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Plain.add_representer(str, _text)


def documents(values: manifests.Values) -> tuple[Document, ...]:
    """Everything that makes an installation, in the order in which to apply it. Raises UnknownProfileError."""
    mesh = manifests.mesh(values)
    return (*manifests.crds(), *mesh)


def _values(profile: str, image: str, namespace: str, trust_domain: str, dns_capture: bool) -> manifests.Values:
    values = manifests.Values(profile, namespace, image, trust_domain=trust_domain, dns_capture=dns_capture)
    try:
        values.mesh()
    except manifests.UnknownProfileError as error:
        console.fail(str(error))
    return values


@manifest.command()
def generate(
    profile: Profile = "lesson",
    image: Image = _DEFAULT.image,
    namespace: Where = _DEFAULT.namespace,
    trust_domain: TrustDomain = _DEFAULT.trust_domain,
    dns_capture: DnsCapture = True,
) -> None:
    """Print the objects as YAML, for `kubectl apply -f -`."""
    found = documents(_values(profile, image, namespace, trust_domain, dns_capture))
    console.say(yaml.dump_all(found, Dumper=_Plain, sort_keys=False, explicit_start=True).rstrip())


def install(
    profile: Profile = "lesson",
    image: Image = _DEFAULT.image,
    namespace: Where = _DEFAULT.namespace,
    trust_domain: TrustDomain = _DEFAULT.trust_domain,
    dns_capture: DnsCapture = True,
    timeout: Annotated[float, typer.Option(help="seconds to wait until the mesh is ready")] = 300,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Install the mesh, or bring it up to date, in the cluster that kubectl talks to."""
    values = _values(profile, image, namespace, trust_domain, dns_capture)
    console.run(_install(console.client(kubeconfig, context), values, timeout))


async def _install(client: Client, values: manifests.Values, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    async with client:
        theirs = await _foreign_definitions(client)
        wanted = [document for document in documents(values) if document["metadata"]["name"] not in theirs]
        for name in theirs:
            console.say(f"- customresourcedefinition/{name} is there already, and not from here: left as it is")
        await applying.apply_all(client, wanted, deadline)
        console.say(f"✅ {len(wanted)} objects applied (profile {values.profile})")
        hint = f"kubectl get pods -n {values.namespace}"
        await applying.until_ready(client, wanted, deadline, hint)
        console.say("✅ istiod, istio-cni-node and ztunnel are Ready")


async def _foreign_definitions(client: Client) -> tuple[str, ...]:
    """Custom resource definitions of this installation's names that somebody else made."""
    wanted = {document["metadata"]["name"] for document in manifests.crds()}
    found = (await client.list(r.CUSTOM_RESOURCE_DEFINITIONS)).items
    return tuple(
        sorted(crd["metadata"]["name"] for crd in found if crd["metadata"]["name"] in wanted and not _ours(crd))
    )


def _ours(crd: dict[str, Any]) -> bool:
    managers = {(entry.get("manager"), entry.get("operation")) for entry in crd["metadata"].get("managedFields") or ()}
    return (FIELD_MANAGER, "Apply") in managers


def uninstall(
    crds: Annotated[
        bool, typer.Option("--crds", help="remove the custom resource definitions too, and with them every policy")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="also while pods are captured; they lose their network")
    ] = False,
    namespace: Where = _DEFAULT.namespace,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Remove the mesh from the cluster that kubectl talks to."""
    values = manifests.Values("lesson", namespace)
    console.run(_uninstall(console.client(kubeconfig, context), values, crds=crds, force=force))


async def _uninstall(client: Client, values: manifests.Values, *, crds: bool, force: bool) -> None:
    async with client:
        captured = await _captured(client)
        if captured and not force:
            raise CommandError(
                f"{len(captured)} pods are captured ({', '.join(captured[:5])}{', …' if len(captured) > 5 else ''}) and would lose "
                "their network; take the label istio.io/dataplane-mode from their namespaces first, or give --force"
            )
        mesh = list(manifests.mesh(values))
        # The webhook goes before what answers it, or nothing could be written any more.
        mesh.sort(key=lambda document: document["kind"] == "ValidatingWebhookConfiguration")
        removed = [*await applying.remove_all(client, mesh)]
        await _until_istiod_is_gone(client, values.namespace)
        removed += await _remove_traces(client)
        if crds:
            theirs = await _foreign_definitions(client)
            own = [document for document in manifests.crds() if document["metadata"]["name"] not in theirs]
            removed += await applying.remove_all(client, own)
        for name in removed:
            console.say(f"{name} deleted")
        console.say("✅ the mesh is removed" if removed else "Nothing to remove: there is no mesh here.")


async def _captured(client: Client) -> Sequence[str]:
    pods = (await client.list(r.PODS)).items
    found = [pod.metadata for pod in pods if pod.metadata.annotations.get(_CAPTURED) == "enabled"]
    return sorted(f"{one.namespace}/{one.name}" for one in found)


async def _until_istiod_is_gone(client: Client, namespace: str) -> None:
    """As long as it runs it puts back what it made."""
    deadline = time.monotonic() + _PATIENCE
    while (await client.list(r.PODS, namespace, label_selector="app=istiod")).items:
        if time.monotonic() > deadline:
            raise CommandError(
                f"istiod still runs in namespace {namespace}; once it has ended, run `tulle uninstall` again"
            )
        await asyncio.sleep(_POLL)


async def _remove_traces(client: Client) -> Sequence[str]:
    """What istiod made outside its own namespace: root and revocation lists in every namespace, and its GatewayClasses."""
    removed: list[str] = []
    for name in PUBLISHED:
        for found in (await client.list(r.CONFIG_MAPS, field_selector=f"metadata.name={name}")).items:
            with suppress(NotFound):
                await client.delete(r.CONFIG_MAPS, name, found.metadata.namespace)
            removed.append(f"configmap/{name} in namespace {found.metadata.namespace}")
    definitions = {crd["metadata"]["name"] for crd in (await client.list(r.CUSTOM_RESOURCE_DEFINITIONS)).items}
    if "gatewayclasses.gateway.networking.k8s.io" in definitions:
        for one in (await client.list(r.GATEWAY_CLASSES)).items:
            if one.spec.controller_name == _OUR_CONTROLLER:
                await client.delete(r.GATEWAY_CLASSES, one.metadata.name)
                removed.append(f"gatewayclass/{one.metadata.name}")
    return removed
