"""`istioctl experimental authz check`: the AuthorizationPolicies that a pod's proxy enforces.

For a waypoint's pod they are the policies of everything it serves; for any other pod of the mesh those that its ztunnel enforces, with
the rules that ztunnel had to drop named on stderr. They come from the API, by the same computation that configures the proxies; with
`-f` they are read from an Envoy's own config dump instead, which shows what it has really got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tulle.cli import console
from tulle.cli.explain.command import IstioNamespace, world_of
from tulle.cli.explain.documents import InputError
from tulle.cli.explain.world import World
from tulle.cli.options import Context, Kubeconfig, Namespace, default_namespace
from tulle.istiod.index import labels as names
from tulle.istiod.index.convert import pod_uid
from tulle.istiod.index.state import ServiceTarget, WorkloadState
from tulle.istiod.index.waypoints import Waypoint
from tulle.security.model import AuthorizationPolicy
from tulle.security.policies import How

_RULE = re.compile(r"ns\[(?P<namespace>[^\]]*)\]-policy\[(?P<name>[^\]]*)\]-rule\[(?P<rule>[^\]]*)\]")

app = typer.Typer(no_args_is_help=True, help="Inspect Istio AuthorizationPolicy")


@dataclass(frozen=True, order=True)
class Row:
    """One policy as enforced."""

    action: str
    policy: str
    rules: int


def of_pod(world: World, namespace: str, name: str) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The policies of a pod's proxy, and remarks on what is not enforced of them. Raises InputError for a pod outside the mesh."""
    state = world.index.workloads.get(pod_uid(namespace, name))
    if state is None:
        raise InputError(f"pod {namespace}/{name}: no such pod with an address")
    gateway = state.record.labels.get(names.GATEWAY_NAME)
    waypoint = world.index.waypoints.get((namespace, gateway)) if gateway else None
    if waypoint is not None and waypoint.ours:
        return tuple(sorted({_row(policy) for policy in _at_waypoint(world, waypoint)})), ()
    if not state.record.hbone:
        raise InputError(
            f"pod {namespace}/{name}: it is not captured, so nothing is enforced before it; "
            f"see label {names.DATAPLANE_MODE} of the pod and its namespace"
        )
    return _at_ztunnel(world, state)


def _row(policy: AuthorizationPolicy) -> Row:
    return Row(policy.action.value, f"{policy.meta.name}.{policy.meta.namespace}", len(policy.rules))


def _at_waypoint(world: World, waypoint: Waypoint) -> Iterator[AuthorizationPolicy]:
    index = world.index
    view = index.waypoint_view(waypoint)
    for target in index.bound.get(waypoint.key, ()):
        if isinstance(target, ServiceTarget):
            yield from index.policy_set.for_service(index.service_view(target.key), view)
        else:
            state = index.workloads[target.uid]
            workload = index.view(state.record, state.services, state.binding)
            yield from index.policy_set.for_pod_ip(workload, view)


def _at_ztunnel(world: World, state: WorkloadState) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    policies = world.index.policy_set
    view = world.index.view(state.record, state.services, state.binding)
    applied = policies.applied(view)
    rows: list[Row] = []
    remarks: list[str] = []
    for item in applied:
        if item.how is How.LIFTED:
            remarks.append(f"{item.policy.meta}: enforced by a waypoint in ztunnel's place ({item.reason})")
            continue
        rows.append(_row(policies.reduced(item)))
        if note := policies.note_at_ztunnel(item):
            remarks.append(f"{item.policy.meta}: {note}")
    rows += [_row(policy) for policy in policies.replacing(applied, view)]
    return tuple(sorted(rows)), tuple(remarks)


def of_dump(text: str, source: str) -> tuple[Row, ...]:
    """The policies in an Envoy config dump, by the names of its RBAC rules. Raises InputError."""
    try:
        dump = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: this is no JSON: {error}") from error
    found: dict[tuple[str, str], set[str]] = {}
    for action, name in _rbac(dump):
        rule = _RULE.fullmatch(name)
        if rule is not None:
            found.setdefault((action, f"{rule['name']}.{rule['namespace']}"), set()).add(rule["rule"])
    return tuple(sorted(Row(action, policy, len(rules)) for (action, policy), rules in found.items()))


def _rbac(value: Any) -> Iterator[tuple[str, str]]:
    """Action and name of every RBAC rule, wherever it stands. An absent action is ALLOW, as in protobuf JSON."""
    if isinstance(value, Mapping):
        policies = value.get("policies")
        if isinstance(policies, Mapping):
            yield from ((str(value.get("action") or "ALLOW"), str(name)) for name in policies)
        for item in value.values():
            yield from _rbac(item)
    elif isinstance(value, list):
        for item in value:
            yield from _rbac(item)


@app.command("check")
def check_(
    pod: Annotated[str, typer.Argument(help="NAME, NAME.NAMESPACE, or pod/NAME")] = "",
    namespace: Namespace = "",
    file: Annotated[str, typer.Option("--file", "-f", help="Envoy config dump (JSON) instead of a pod")] = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check the AuthorizationPolicies applied to a pod."""
    if bool(pod) == bool(file):
        console.fail("name a pod, or give a config dump with -f, but not both")
    remarks: tuple[str, ...] = ()
    try:
        if file:
            rows = of_dump(_read(file), file)
        else:
            name, dot, own = pod.removeprefix("pod/").partition(".")
            where = own if dot else namespace or default_namespace(kubeconfig, context)
            rows, remarks = of_pod(world_of((), "", kubeconfig, context, istio_namespace), where, name)
    except InputError as error:
        console.fail(str(error))
    console.say(
        console.table(("ACTION", "AuthorizationPolicy", "RULES"), ((r.action, r.policy, str(r.rules)) for r in rows))
    )
    for remark in remarks:
        console.warn(remark)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
