"""The policy engine's picture of the mesh, whatever single policies are like.

One policy that the engine cannot work with is replaced by one that denies wherever the policy itself could have, and all others hold as
they are written.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from tulle.istiod.index.contained import contained
from tulle.security.mesh import MeshSettings
from tulle.security.model import Action, AuthorizationPolicy, MtlsMode, PeerAuthentication
from tulle.security.policies import PolicySet


def policy_set(
    settings: MeshSettings,
    policies: Collection[AuthorizationPolicy],
    authentications: Collection[PeerAuthentication],
    before: PolicySet,
) -> PolicySet:
    """The set of all policies, ready for what node proxies are sent."""
    try:
        return _ready(PolicySet(settings, policies, authentications, before=before))
    except Exception:  # which one it is comes out below
        usable = [_usable(settings, policy) for policy in policies]
        strict = [_usable_authentication(settings, one) for one in authentications]
        return _ready(PolicySet(settings, usable, strict))


def _ready(found: PolicySet) -> PolicySet:
    found.ztunnel_policies()
    return found


def _usable(settings: MeshSettings, policy: AuthorizationPolicy) -> AuthorizationPolicy:
    def alone() -> AuthorizationPolicy:
        _ready(PolicySet(settings, [policy]))
        return policy

    closed = replace(policy, action=Action.ALLOW, rules=(), provider="")
    return contained(alone, lambda: closed, str(policy.meta), "it denies everything where it would have applied")


def _usable_authentication(settings: MeshSettings, policy: PeerAuthentication) -> PeerAuthentication:
    def alone() -> PeerAuthentication:
        _ready(PolicySet(settings, (), [policy]))
        return policy

    strict = replace(policy, mode=MtlsMode.STRICT, ports=())
    return contained(alone, lambda: strict, str(policy.meta), "STRICT holds where it would have applied")
