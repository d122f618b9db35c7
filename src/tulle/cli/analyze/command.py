"""The command line of `istioctl analyze`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import typer
import yaml

from tulle.cli import console
from tulle.cli.analyze import bindings, loading, policies, profile, status, upstream
from tulle.cli.analyze.messages import CODES, Analyzer, Level, Message
from tulle.cli.explain import documents, live
from tulle.cli.explain.command import IstioNamespace, Profile
from tulle.cli.explain.documents import Document, InputError, Key
from tulle.cli.options import Context, Kubeconfig, Namespace, default_namespace
from tulle.kube.client import Client
from tulle.kube.resources import CUSTOM_RESOURCE_DEFINITIONS

FOUND = 79
ANALYZERS: Mapping[str, Analyzer] = {
    "schema.Validation": upstream.schema,
    "authz.ReferencedNamespaces": upstream.referenced_namespaces,
    "injection.Analyzer": upstream.injection,
    "service.PortName": upstream.port_names,
    "authz.NoMatchingWorkloads": upstream.no_workloads,
    "serviceentry.Addresses": upstream.service_entries,
    "jwt.ClaimRouting": upstream.claim_routing,
    "k8sgateway.Selector": upstream.gateway_selectors,
    "policy.Ineffective": upstream.ineffective,
    "jwt.Jwks": upstream.jwks,
    "k8sgateway.Version": upstream.gateway_api,
    "conditions.Negative": status.conditions,
    "ambient.WaypointLabel": bindings.unknown_label,
    "ambient.WaypointBinding": bindings.not_bound,
    "bindings.AddressBlocks": bindings.address_blocks,
    "ambient.WebhookUnderStrict": bindings.webhooks,
    "ambient.Layer7AtZtunnel": policies.layer7_at_ztunnel,
    "ambient.NotEnrolled": policies.not_enrolled,
    "ambient.WaypointNotAllowed": policies.waypoint_not_allowed,
    "ambient.HeadIsNotGet": policies.head_missing,
    "ambient.Principals": policies.principals,
    "ambient.PortLevelMtls": policies.port_level_mtls,
    "tulle.ProfileKeys": profile.in_use,
}


def analyze_(
    files: Annotated[
        list[str] | None, typer.Argument(help="YAML files or folders, analyzed as if they were applied")
    ] = None,
    namespace: Namespace = "",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="every namespace")] = False,
    use_kube: Annotated[
        bool, typer.Option("--use-kube/--no-use-kube", "-k", help="take the cluster into account")
    ] = True,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="accepted for compatibility: folders are always read whole")
    ] = False,
    list_analyzers: Annotated[bool, typer.Option("--list-analyzers", "-L", help="list the analyzers and end")] = False,
    suppress: Annotated[
        list[str] | None, typer.Option("--suppress", "-S", help='CODE=RESOURCE, e.g. IST0102="Namespace d*"')
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="log, json or yaml")] = "log",
    failure_threshold: Annotated[
        str, typer.Option("--failure-threshold", help="level that makes the command fail")
    ] = "Error",
    output_threshold: Annotated[str, typer.Option("--output-threshold", help="lowest level to print")] = "Info",
    revision: Annotated[str, typer.Option("--revision", help="only objects of this istio.io/rev, or of none")] = "",
    timeout: Annotated[str, typer.Option("--timeout", help="time for reading the cluster, e.g. 30s")] = "30s",
    color: Annotated[bool, typer.Option("--color/--no-color", help="accepted for compatibility")] = True,
    profile_name: Profile = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Analyze the mesh's configuration and print what is wrong with it."""
    if list_analyzers:
        console.say("\n".join(f"* {name}" for name in ANALYZERS))
        return
    if output not in ("log", "json", "yaml"):
        console.fail(f"-o {output!r}: accepted are log, json and yaml")
    if not files and not use_kube:
        console.fail("nothing to analyze: give files, or leave --use-kube on")
    fails, shows = _level("--failure-threshold", failure_threshold), _level("--output-threshold", output_threshold)
    where = "" if all_namespaces else namespace or (default_namespace(kubeconfig, context) if use_kube else "")
    try:
        given = documents.load(files or ())
        found: tuple[Document, ...] = ()
        if use_kube:
            client = console.client(kubeconfig, context)
            found = console.run(_read(client, istio_namespace, _seconds(timeout)))
        readable, messages = loading.sound(loading.over(found, given))
        world = loading.world(readable, profile_name, live=use_kube)
        messages += tuple(message for analyzer in ANALYZERS.values() for message in analyzer(world))
    except InputError as error:
        console.fail(str(error))
    sources = {document.key: document.source for document in (*found, *given)}
    chosen = [
        message
        for message in _ordered(messages)
        if _in(message.key, where, istio_namespace)
        and not _suppressed(message, suppress or ())
        and _of_revision(world.labels(*message.key), revision)
    ]
    _print([message for message in chosen if message.level >= shows], output, where, sources)
    if any(message.level >= fails for message in chosen):
        if output == "log":
            console.fail(f"Analyzers found issues when analyzing {_scope(where)}.", FOUND)
        raise typer.Exit(FOUND)


async def _read(client: Client, istio_namespace: str, seconds: float) -> tuple[Document, ...]:
    async with client:
        try:
            async with asyncio.timeout(seconds):
                found = await live.lists(client, istio_namespace)
                crds = (await client.list(CUSTOM_RESOURCE_DEFINITIONS)).items
        except TimeoutError as error:
            raise InputError(f"--timeout: the cluster was not read within {seconds:g} s") from error
    listed = (
        Document(Key("CustomResourceDefinition", "", one["metadata"]["name"]), one, "the cluster") for one in crds
    )
    return (*found, *listed)


def _seconds(text: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            return float(number) * factor
    raise InputError(f"--timeout: found {text!r}; accepted is a duration such as 30s or 1m")


def _level(option: str, text: str) -> Level:
    try:
        return Level.parse(text)
    except ValueError as error:
        console.fail(f"{option}: {error}")


def _ordered(messages: Iterable[Message]) -> list[Message]:
    """The worst first, each once."""
    return sorted(dict.fromkeys(messages), key=lambda one: (-one.level, one.code, one.key, one.text))


def _in(key: Key, namespace: str, istio_namespace: str) -> bool:
    """Objects of the namespace, the namespace itself, and what is of no namespace or of the root namespace."""
    if not namespace or key.namespace in (namespace, istio_namespace):
        return True
    return key.namespace == "" and (key.kind != "Namespace" or key.name == namespace)


def _suppressed(message: Message, patterns: Sequence[str]) -> bool:
    for pattern in patterns:
        code, equals, resource = pattern.partition("=")
        if not equals or code not in CODES:
            console.fail(
                f"--suppress {pattern!r}: accepted is CODE=RESOURCE with a known code and `Kind namespace/name` (* stands for anything)"
            )
        dotted = f"{message.key.kind} {message.key.name}{'.' + message.key.namespace if message.key.namespace else ''}"
        if code == message.code and (fnmatchcase(message.origin, resource) or fnmatchcase(dotted, resource)):
            return True
    return False


def _of_revision(labels: Mapping[str, str], revision: str) -> bool:
    return not revision or labels.get("istio.io/rev", revision) == revision


def _scope(namespace: str) -> str:
    return f"namespace: {namespace}" if namespace else "all namespaces"


def _print(messages: Sequence[Message], output: str, namespace: str, sources: Mapping[Key, str]) -> None:
    if output == "log":
        if messages:
            console.say("\n".join(message.line() for message in messages))
        else:
            console.say(f"✔ No validation issues found when analyzing {_scope(namespace)}.")
        return
    data = [message.as_data(sources.get(message.key, "")) for message in messages]
    console.say(json.dumps(data, indent=2) if output == "json" else yaml.safe_dump(data, sort_keys=False).rstrip())
