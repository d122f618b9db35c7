"""`istioctl experimental describe`: one pod or Service, and what the mesh makes of it (spec F).

Upstream's says nothing of ambient: here the same blocks are followed by what decides a request's fate, namely whether the pod is captured,
which waypoint its Services are bound to (or why to none), and which policies hold where. All of it is computed from the API's objects by
the code that configures the proxies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from tulle.cli import cobra, console, pods
from tulle.cli.explain.command import world_of
from tulle.cli.explain.documents import InputError
from tulle.cli.explain.world import World
from tulle.cli.options import Context, IstioNamespace, Kubeconfig, Namespace, default_namespace
from tulle.istiod.index.convert import pod_uid
from tulle.istiod.index.labels import DATAPLANE_MODE, GATEWAY_NAME
from tulle.istiod.index.records import Protocol, ServiceKey
from tulle.istiod.index.state import Membership, ServiceState, WorkloadState
from tulle.istiod.index.waypoints import Binding
from tulle.security.identity import Identity
from tulle.security.model import AuthorizationPolicy

_LINE = "--------------------"

app = typer.Typer(no_args_is_help=True, help="Describe resource and related Istio configuration")


def of_pod(world: World, namespace: str, name: str) -> Iterator[str]:
    """The lines that describe a pod. Raises InputError when there is none, or none that could be part of a mesh."""
    manifest = world.manifest("Pod", namespace, name)
    if manifest is None:
        raise InputError(f"pod {namespace}/{name} does not exist; name it as NAME.NAMESPACE, or add -n")
    yield f"Pod: {name}"
    yield f"   Pod Revision: {manifest['metadata'].get('labels', {}).get('istio.io/rev', 'default')}"
    yield f"   Pod Ports: {_ports(manifest['spec']) or '(none declared)'}"
    state = world.index.workloads.get(pod_uid(namespace, name))
    if state is None:
        phase = (manifest.get("status") or {}).get("phase", "Pending")
        yield f"WARNING: {name} is not part of mesh: it has no address (phase {phase})"
        return
    yield from _capture(world, state)
    for membership in state.services:
        yield _LINE
        yield from _service_lines(world, membership.service, membership)
    if state.record.hbone:
        yield _LINE
        yield from _mtls(world, state)
        yield from _policies("AuthorizationPolicies at ztunnel", state.policies)


def _ports(spec: Mapping[str, Any]) -> str:
    def one(container: Mapping[str, Any], port: Mapping[str, Any]) -> str:
        protocol = port.get("protocol", "TCP")
        suffix = "" if protocol == "TCP" else f"/{protocol}"
        return f"{port['containerPort']}{suffix} ({container['name']})"

    return ", ".join(one(c, port) for c in spec.get("containers", ()) for port in c.get("ports", ()))


def _capture(world: World, state: WorkloadState) -> Iterator[str]:
    record = state.record
    identity = Identity(state.trust_domain, record.namespace, record.service_account)
    if GATEWAY_NAME in record.labels and world.index.waypoints.get((record.namespace, record.labels[GATEWAY_NAME])):
        yield f"   Waypoint of Gateway {record.namespace}/{record.labels[GATEWAY_NAME]}, as {identity.principal}"
    elif record.hbone:
        yield f"   Captured by the ztunnel of node {record.node}, as {identity.principal}"
        if state.binding.waypoint is not None or state.binding.reason is not None:
            yield f"   Waypoint for its own address: {_bound(state.binding)}"
    else:
        yield (
            f"WARNING: {record.name} is not part of mesh: nothing redirects its traffic to a ztunnel, so neither mTLS nor any "
            "policy of ztunnel holds for it; "
            f"the label {DATAPLANE_MODE}=ambient on its namespace or on itself does it"
        )


def _bound(binding: Binding) -> str:
    if binding.waypoint is not None:
        return f"{binding.waypoint.namespace}/{binding.waypoint.name}"
    return "None" if binding.reason is None else f"None ({binding.reason.value}: {binding.message})"


def of_service(world: World, namespace: str, name: str) -> Iterator[str]:
    """The lines that describe a Service. Raises InputError when there is none."""
    manifest = world.manifest("Service", namespace, name)
    if manifest is None:
        raise InputError(f"service {namespace}/{name} does not exist; name it as NAME.NAMESPACE, or add -n")
    key = next(
        (k for k, s in world.index.services.items() if (s.record.kind, *_own(s)) == ("Service", namespace, name)), None
    )
    if key is None:
        yield f"Service: {name}"
        kind = manifest["spec"].get("type", "ClusterIP")
        yield f"WARNING: a Service of type {kind} is no part of the mesh: it is only a name for another host"
        return
    yield from _service_lines(world, key, None)
    members = [
        world.index.workloads[uid] for uid in sorted(world.index.tables.members_of(key)) if uid in world.index.workloads
    ]
    captured = sum(member.record.hbone for member in members)
    healthy = sum(member.record.ready for member in members)
    yield f"   Endpoints: {len(members)}, of which {healthy} healthy and {captured} captured"
    for member in members:
        state = "" if member.record.ready else ", not ready"
        yield f"      {member.record.name} {', '.join(member.record.addresses)}{state}"


def _own(state: ServiceState) -> tuple[str, str]:
    return state.record.namespace, state.record.name


def _service_lines(world: World, key: ServiceKey, membership: Membership | None) -> Iterator[str]:
    state = world.index.services[key]
    yield f"{state.record.kind}: {state.record.name}"
    targets = {port.service_port: port.target_port for port in membership.ports} if membership else {}
    for port in state.record.ports:
        protocol = "auto-detect" if port.protocol is Protocol.UNKNOWN else port.protocol.name.removesuffix("11")
        target = targets.get(port.port) or port.target
        where = f"pod port {target}" if target else "a port that each pod names"
        yield f"   Port: {port.name or '(unnamed)'} {port.port}/{protocol} targets {where}"
    yield f"   Waypoint: {_bound(state.binding)}"
    policies = {
        policy.meta.key: policy
        for waypoint in state.waypoints
        if waypoint.ours
        for policy in world.index.policy_set.for_service(
            world.index.service_view(key), world.index.waypoint_view(waypoint)
        )
    }
    if state.binding.waypoint is not None:
        yield from _policies("AuthorizationPolicies at the waypoint", map(_named, policies.values()), indent="   ")


def _named(policy: AuthorizationPolicy) -> str:
    return f"{policy.meta.key} ({policy.action.value})"


def _policies(title: str, names: Iterable[str], indent: str = "") -> Iterator[str]:
    found = sorted(names)
    yield f"{indent}{title}:" if found else f"{indent}{title}: None"
    for name in found:
        yield f"{indent}   {name}"


def _mtls(world: World, state: WorkloadState) -> Iterator[str]:
    view = world.index.view(state.record, state.services, state.binding)
    ports = sorted({port.target_port for membership in state.services for port in membership.ports})
    modes = {port: world.index.policy_set.peer_authentications.effective(view, port) for port in (0, *ports)}
    words = {True: "STRICT", False: "PERMISSIVE"}
    yield "Effective PeerAuthentication:"
    yield f"   Workload mTLS mode: {words[modes[0].strict]}"
    for port in ports:
        if modes[port].strict is not modes[0].strict:
            yield f"   Port {port} mTLS mode: {words[modes[port].strict]}"
    sources = sorted({f"{m.source.name}.{m.source.namespace}" for m in modes.values() if m.source is not None})
    if sources:
        yield "Applied PeerAuthentication:"
        yield f"   {', '.join(sources)}"


@cobra.command(app, "pod", "po")
def pod(
    name: Annotated[str, typer.Argument(metavar="POD[.NAMESPACE]", help="the pod")],
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Describe a pod and its Istio configuration."""
    own, where = pods.split(name.removeprefix("pod/"), namespace or default_namespace(kubeconfig, context))
    _say(of_pod(world_of((), "", kubeconfig, context, istio_namespace), where, own))


@cobra.command(app, "service", "svc")
def service(
    name: Annotated[str, typer.Argument(metavar="SERVICE[.NAMESPACE]", help="the Service")],
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Describe a Service and its Istio configuration."""
    own, where = pods.split(name.removeprefix("service/"), namespace or default_namespace(kubeconfig, context))
    _say(of_service(world_of((), "", kubeconfig, context, istio_namespace), where, own))


def _say(lines: Iterable[str]) -> None:
    try:
        text = "\n".join(lines)
    except InputError as error:
        console.fail(str(error))
    console.say(text)
