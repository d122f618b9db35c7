"""What the policies of one workload make of a peer (spec C4): DENY first, then ALLOW if there is any.

A workload's policies are those of its namespace, the global ones, and those it names.  A name that is not known (yet)
stands for a policy that may forbid anything, so until it is known nothing is let in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tulle.ztunnel.policy.convert import Policy, Scope
from tulle.ztunnel.policy.terms import Peer, holds

NONE_ALLOWED = "allow policies exist, but none allowed"


def denied_by(key: str) -> str:
    """The reason when the DENY policy `key` matches."""
    return f"explicitly denied by: {key}"


def not_known(key: str) -> str:
    """The reason when the attached policy `key` has not arrived."""
    return f"attached policy not known: {key}"


@dataclass(frozen=True)
class Effective:
    """The policies in force for one workload, in the order of evaluation."""

    unknown: tuple[str, ...]
    deny: tuple[Policy, ...]
    allow: tuple[Policy, ...]


@dataclass(frozen=True)
class Verdict:
    """`reason` is empty when allowed; `policy` is the key of the policy that decided, if one did."""

    allowed: bool
    reason: str = ""
    policy: str = ""


def effective(
    namespace: str, attached: Iterable[str], by_key: Mapping[str, Policy], scoped: Iterable[Policy]
) -> Effective:
    """The policies of a workload in `namespace` that names `attached`; `scoped` are all of GLOBAL or NAMESPACE scope."""
    found: dict[str, Policy] = {}
    unknown = []
    for policy in scoped:
        if policy.scope is Scope.GLOBAL or (policy.scope is Scope.NAMESPACE and policy.namespace == namespace):
            found[policy.key] = policy
    for key in attached:
        policy_or_none = by_key.get(key)
        if policy_or_none is None:
            unknown.append(key)
        else:
            found[key] = policy_or_none
    enforced = [policy for _, policy in sorted(found.items()) if not policy.dry_run]
    return Effective(
        tuple(sorted(unknown)),
        tuple(policy for policy in enforced if policy.deny),
        tuple(policy for policy in enforced if not policy.deny),
    )


def decide(policies: Effective, peer: Peer) -> Verdict:
    """Whether the peer may connect, and why not."""
    for key in policies.unknown:
        return Verdict(False, not_known(key), key)
    for policy in policies.deny:
        if holds(policy.condition, peer):
            return Verdict(False, denied_by(policy.key), policy.key)
    for policy in policies.allow:
        if holds(policy.condition, peer):
            return Verdict(True, policy=policy.key)
    return Verdict(False, NONE_ALLOWED) if policies.allow else Verdict(True)
