"""Whether an open connection may stay, by the policies as they are now (spec D7).

Stricter than for a new connection in nothing, more patient in one thing: a policy that the workload names and that has not
arrived keeps new connections out at once, but an open one only when the policy has had time to arrive.  Else every
policy that is attached would cut connections it allows, whenever the workload's record is the first to come.  A pod whose
record istiod has withdrawn takes nothing new and keeps what it has, so that a pod can end in order.
"""

from __future__ import annotations

import dataclasses

from tulle.ztunnel.config.access import Access
from tulle.ztunnel.policy.decide import decide
from tulle.ztunnel.policy.terms import Peer


def objection(access: Access, peer: Peer, *, patient: bool) -> str:
    """Why the connection has to go, "" if it may stay.  `patient`: policies that have not arrived may still do so."""
    if not access.known:
        return ""
    policies = access.policies
    if policies.unknown and patient:
        policies = dataclasses.replace(policies, unknown=(), allow=())
    verdict = decide(policies, peer)
    return "" if verdict.allowed else verdict.reason
