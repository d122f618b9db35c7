"""PeerAuthentication: which mode holds for a workload's port, and how ztunnel is told.

A mode is inherited from mesh to namespace to workload to port. ztunnel knows nothing of modes; it gets DENY policies for
peers without an identity. Both views are here, side by side, since they must agree (B2, B3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .match import StringForm, StringMatch
from .model import Action, Meta, MtlsMode, PeerAuthentication, labels_match
from .views import WorkloadView
from .ztunnel import Clause, Match, Scope, ZtunnelPolicy, ZtunnelRule

STATIC_STRICT = "istio_converted_static_strict"
CONVERTED_PREFIX = "converted_peer_authentication_"

_NO_PRINCIPAL = Clause((Match(not_principals=(StringMatch(StringForm.PRESENCE),)),))
_LAX = (MtlsMode.PERMISSIVE, MtlsMode.DISABLE)


@dataclass(frozen=True, slots=True)
class EffectiveMode:
    """Whether a port requires mTLS, and the object and field that say so (None: no object, so PERMISSIVE)."""

    strict: bool
    source: Meta | None = None
    path: str = ""

    @property
    def reason(self) -> str:
        """One sentence on where the mode comes from."""
        if self.source is None:
            return "no PeerAuthentication applies, so plaintext is accepted (PERMISSIVE)"
        mode = "requires mTLS" if self.strict else "accepts plaintext"
        return f"{self.source} {mode} ({self.path})"


class PeerAuthentications:
    """All PeerAuthentications of the mesh, indexed. Equal input in any order gives an equal result."""

    def __init__(self, root_namespace: str, objects: Iterable[PeerAuthentication]) -> None:
        self._root = root_namespace
        # Oldest first; equal ages are told apart by name so that the order of the input does not matter (B2).
        ordered = sorted(objects, key=lambda pa: (pa.meta.creation, pa.meta.namespace, pa.meta.name))
        self._any = bool(ordered)
        self._mesh: PeerAuthentication | None = None
        self._root_only: PeerAuthentication | None = None
        self._namespace: dict[str, PeerAuthentication] = {}
        self._workload: dict[str, list[PeerAuthentication]] = {}
        for pa in ordered:
            self._place(pa)

    def _place(self, pa: PeerAuthentication) -> None:
        namespace = pa.meta.namespace
        if namespace == self._root:
            # A selector in the root namespace applies nowhere; an empty one is seen by the root namespace's own pods only.
            if pa.selector is None:
                self._mesh = self._mesh or pa
            if not pa.selector:
                self._root_only = self._root_only or pa
        elif pa.selector:
            self._workload.setdefault(namespace, []).append(pa)
        else:
            self._namespace.setdefault(namespace, pa)

    def effective(self, workload: WorkloadView, port: int) -> EffectiveMode:
        """The mode of a target port of a workload."""
        own = self._own(workload)
        inherited = self._inherited(workload.namespace)
        if own is None:
            return inherited
        mode = dict(own.ports).get(port, MtlsMode.UNSET)
        if mode is MtlsMode.STRICT or (mode in _LAX and _honours_exceptions(own, inherited.strict)):
            return EffectiveMode(mode is MtlsMode.STRICT, own.meta, f"spec.portLevelMtls[{port}]")
        if own.mode is MtlsMode.UNSET:
            return inherited
        return EffectiveMode(own.mode is MtlsMode.STRICT, own.meta, "spec.mtls.mode")

    def names_for(self, workload: WorkloadView) -> tuple[str, ...]:
        """The converted policies that a workload must refer to."""
        own = self._own(workload)
        inherited = self._inherited(workload.namespace).strict
        converted = () if own is None or self._convert(own) is None else (_converted_key(own),)
        strict = inherited if own is None or own.mode is MtlsMode.UNSET else own.mode is MtlsMode.STRICT
        if strict and (own is None or not _honours_exceptions(own, inherited)):
            return (*converted, f"{self._root}/{STATIC_STRICT}")
        return converted

    def ztunnel_policies(self) -> Mapping[str, ZtunnelPolicy]:
        """The converted policies to send: the static one as soon as any PeerAuthentication exists, and one per object
        with port entries that needs it."""
        found: dict[str, ZtunnelPolicy] = {}
        if self._any:
            rule = ZtunnelRule((_NO_PRINCIPAL,))
            static = ZtunnelPolicy(STATIC_STRICT, self._root, Scope.WORKLOAD_SELECTOR, Action.DENY, (rule,))
            found[static.key] = static
        for objects in self._workload.values():
            for pa in objects:
                if (policy := self._convert(pa)) is not None:
                    found[policy.key] = policy
        return found

    def _own(self, workload: WorkloadView) -> PeerAuthentication | None:
        for pa in self._workload.get(workload.namespace, ()):
            if labels_match(pa.selector or (), workload.labels):
                return pa
        return None

    def _inherited(self, namespace: str) -> EffectiveMode:
        mesh = self._root_only if namespace == self._root else self._mesh
        for pa in (self._namespace.get(namespace), mesh):
            if pa is not None and pa.mode is not MtlsMode.UNSET:
                return EffectiveMode(pa.mode is MtlsMode.STRICT, pa.meta, "spec.mtls.mode")
        return EffectiveMode(False)

    def _convert(self, pa: PeerAuthentication) -> ZtunnelPolicy | None:
        inherited = self._inherited(pa.meta.namespace).strict
        strict = inherited if pa.mode is MtlsMode.UNSET else pa.mode is MtlsMode.STRICT
        if strict:
            if not _honours_exceptions(pa, inherited):
                return None
            lax = [port for port, mode in pa.ports if mode in _LAX]
            clauses = (_NO_PRINCIPAL, *(Clause((Match(not_destination_ports=(port,)),)) for port in lax))
            rules: tuple[ZtunnelRule, ...] = (ZtunnelRule(clauses),)
        else:
            ports = [port for port, mode in pa.ports if mode is MtlsMode.STRICT]
            rules = tuple(ZtunnelRule((_NO_PRINCIPAL, Clause((Match(destination_ports=(p,)),)))) for p in ports)
            if not rules:
                return None
        name = CONVERTED_PREFIX + pa.meta.name
        return ZtunnelPolicy(name, pa.meta.namespace, Scope.WORKLOAD_SELECTOR, Action.DENY, rules)


def _converted_key(pa: PeerAuthentication) -> str:
    return f"{pa.meta.namespace}/{CONVERTED_PREFIX}{pa.meta.name}"


def _honours_exceptions(pa: PeerAuthentication, inherited_strict: bool) -> bool:
    """Whether port entries that accept plaintext lift a strict mode.

    Under an inherited STRICT (mode UNSET) at least one of them must be PERMISSIVE: entries that are all DISABLE have no
    effect there (B3, quirk a).
    """
    modes = [mode for _, mode in pa.ports]
    if pa.mode is MtlsMode.UNSET and inherited_strict:
        return MtlsMode.PERMISSIVE in modes
    return any(mode in _LAX for mode in modes)
