"""TUL0007: every use of one of the four settings in which a mesh departs from upstream, object by object."""

from __future__ import annotations

from collections.abc import Iterator

from tulle.cli.analyze.messages import Message
from tulle.cli.analyze.policies import by_name, key_of, names_get_only, reach, terms_of
from tulle.cli.explain.documents import Key
from tulle.cli.explain.world import World
from tulle.istiod.index.waypoints import namespace_reference
from tulle.security.policies import How


def in_use(world: World) -> Iterator[Message]:
    """The keys of the mesh configuration under `tulle:` that have an effect."""
    settings = world.settings
    for name, record in sorted(world.index.tables.namespaces.items()):
        found = namespace_reference(record, settings.waypoint_label_alias)
        if found is not None and found.alias:
            text = "waypointLabelAlias: istio.io/waypoint=enabled counts as istio.io/use-waypoint=waypoint; upstream ignores it"
            yield Message("TUL0007", Key("Namespace", "", name), text)
    reached = reach(world) if settings.lift_selector_policies else {}
    for policy in by_name(world):
        if How.LIFTED in reached.get(policy.meta.key, ()):
            text = "liftSelectorPolicies: enforced by the waypoint in ztunnel's place; upstream would need targetRefs"
            yield Message("TUL0007", key_of(policy), text)
        if settings.head_is_get and any(map(names_get_only, terms_of(policy))):
            yield Message(
                "TUL0007",
                key_of(policy),
                "headIsGet: GET also matches HEAD at a waypoint; upstream needs HEAD in the list",
            )
    if settings.explain_refusals:
        key = Key("ConfigMap", settings.root_namespace, "istio")
        text = "explainRefusals: refusals at ports declared HTTP reach clients as HTTP 503 with a reason; upstream resets the connection"
        yield Message("TUL0007", key, text)
