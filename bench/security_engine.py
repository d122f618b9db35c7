"""How fast the policy engine decides and compiles: `python -m bench.security_engine`.

One process, one core. Processor time, and the best of several rounds, since other work on the machine only ever adds to it.
The requests walk both hops of a waypoint or the one hop of layer 4, against 500 policies that all apply to the workload.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from tulle.security.decision import HttpRequest, Request, allows, decide
from tulle.security.envoy_rbac import http_filters, tcp_filters
from tulle.security.identity import Identity
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy
from tulle.security.parse import parse_authorization_policy
from tulle.security.policies import PolicySet
from tulle.security.views import ServiceView, WaypointView, WorkloadView

POLICIES, REQUESTS, ROUNDS = 500, 20_000, 7
MANY = 10_000
WAYPOINT = WaypointView("shop", "waypoint", "istio-waypoint", Identity("cluster.local", "shop", "waypoint"))
WORKLOAD = WorkloadView("shop", "cart-1", {"app": "cart"}, "cart", (WAYPOINT,))
SERVICE = ServiceView("shop", "cart", (WORKLOAD,), ((80, 8080),))


def manifest(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """An AuthorizationPolicy."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def http_spec(number: int) -> dict[str, Any]:
    """Policies as they are written: by account, namespace, prefix, address, method, path and header, one DENY in five."""
    sources: Sequence[dict[str, Any]] = (
        {"principals": [f"cluster.local/ns/team-{number % 100}/sa/app-{number}"]},
        {"namespaces": [f"team-{number % 100}"], "notNamespaces": ["banned"]},
        {"principals": [f"cluster.local/ns/team-{number}/*"]},
        {"ipBlocks": [f"10.{number % 250}.0.0/16"], "namespaces": [f"team-{number % 100}"]},
        {"serviceAccounts": [f"team-{number % 100}/app-{number}"]},
    )
    operation = {"methods": ["GET", "POST"], "paths": [f"/api/v{number}/*", f"/t/{number}/{{*}}/x"]}
    rule: dict[str, Any] = {"from": [{"source": sources[number // 5 % 5]}], "to": [{"operation": operation}]}
    if number % 7 == 0:
        rule["when"] = [{"key": "request.headers[x-team]", "values": [f"t{number}", "any*"]}]
    return {"action": "DENY" if number % 5 == 0 else "ALLOW", "rules": [rule]}


def l4_spec(number: int) -> dict[str, Any]:
    """The same without what only a waypoint sees."""
    spec = http_spec(number)
    for rule in spec["rules"]:
        rule["to"] = [{"operation": {"ports": [str(8000 + number % 200)]}}]
        rule.pop("when", None)
    return spec


def parsed(name: str, namespace: str, spec: dict[str, Any]) -> AuthorizationPolicy:
    """The policy of a manifest."""
    return parse_authorization_policy(manifest(name, namespace, spec))


def l7_set() -> PolicySet:
    """500 policies with targetRefs to one Service."""
    target = {"targetRefs": [{"kind": "Service", "group": "", "name": "cart"}]}
    return PolicySet(MeshSettings(), [parsed(f"p{n}", "shop", {**target, **http_spec(n)}) for n in range(POLICIES)])


def l4_set() -> PolicySet:
    """500 policies that select one workload."""
    target = {"selector": {"matchLabels": {"app": "cart"}}}
    return PolicySet(MeshSettings(), [parsed(f"p{n}", "shop", {**target, **l4_spec(n)}) for n in range(POLICIES)])


def request(chance: random.Random, http: bool) -> Request:
    """Half of the requests come close to some policy."""
    number = chance.randrange(POLICIES * 2)
    client = Identity("cluster.local", f"team-{number % 100}", f"app-{number}")
    call = HttpRequest(
        chance.choice(("GET", "POST", "PUT")), f"/api/v{number}/items/{chance.randrange(10**6)}", "cart.shop",
        (("user-agent", "bench"), ("x-team", f"t{number}")),
    )  # fmt: skip
    source = f"10.{number % 250}.{chance.randrange(250)}.{chance.randrange(250)}"
    if not http:
        return Request(client, WORKLOAD, 8000 + number % 200, source, "10.0.0.5")
    return Request(client, WORKLOAD, 8080, source, "10.0.0.5", SERVICE, 80, "10.96.0.9", WAYPOINT, "10.0.0.7", call)


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the quickest round."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def decisions(policies: PolicySet, http: bool, seed: int) -> dict[str, float]:
    """Requests per second, short and traced; the two must agree."""
    chance = random.Random(seed)  # noqa: S311 (a repeatable load)
    requests = [request(chance, http) for _ in range(REQUESTS)]
    few = requests[: REQUESTS // 100]
    passed = sum(allows(policies, one) for one in requests)
    assert [allows(policies, one) for one in few] == [decide(policies, one).allowed for one in few]
    assert 0 < passed < REQUESTS, "the load must hold both verdicts"
    short = REQUESTS / best(lambda: [allows(policies, one) for one in requests])
    traced = len(few) / best(lambda: [decide(policies, one) for one in few], 3)
    return {"allows/s": short, "decide/s": traced, "allowed share": passed / REQUESTS}


def compile_many() -> dict[str, float]:
    """Seconds for 10,000 policies in 100 namespaces: reading, indexing, ztunnel's forms and every waypoint's filters."""
    manifests = [
        manifest(
            f"p{n}",
            f"ns-{n % 100}",
            {"selector": {"matchLabels": {"app": f"a{n % 300}"}}, **l4_spec(n)}
            if n % 2
            else {"targetRefs": [{"kind": "Service", "group": "", "name": f"s{n % 40}"}], **http_spec(n)},
        )
        for n in range(MANY)
    ]
    settings = MeshSettings()
    start = time.process_time()
    policies = [parse_authorization_policy(item) for item in manifests]
    read = time.process_time()
    found = PolicySet(settings, policies)
    indexed = time.process_time()
    found.ztunnel_policies()
    sent = time.process_time()
    for namespace, service in itertools.product(range(100), range(40)):
        waypoint = WaypointView(
            f"ns-{namespace}", "waypoint", "istio-waypoint", Identity("cluster.local", f"ns-{namespace}", "waypoint")
        )
        enforced = found.for_service(ServiceView(f"ns-{namespace}", f"s{service}"), waypoint)
        http_filters(enforced, settings)
        tcp_filters(enforced, settings)
    filtered = time.process_time()
    return {
        "read": read - start,
        "index": indexed - read,
        "ztunnel": sent - indexed,
        "waypoints": filtered - sent,
        "total": filtered - start,
    }


def main() -> None:
    """Print the figures; with --check fail where one misses its target."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument(
        "--check", action="store_true", help="exit 1 below 100,000 allows/s or above 5 s for compiling"
    )
    options = arguments.parse_args()
    l7, l4 = decisions(l7_set(), True, options.seed), decisions(l4_set(), False, options.seed)
    compiled = compile_many()
    for name, figures in (("waypoint and ztunnel, 500 policies", l7), ("ztunnel alone, 500 policies", l4)):
        print(f"{name}: {figures['allows/s']:,.0f} allows/s, {figures['decide/s']:,.0f} decide/s with trace", end="")
        print(f" ({figures['allowed share']:.0%} allowed)")
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in compiled.items())
    print(f"compile {MANY:,} policies: {parts}")
    if options.check and (min(l7["allows/s"], l4["allows/s"]) < 100_000 or compiled["total"] > 5):
        raise SystemExit("below target: 100,000 allows/s and 5 s")


if __name__ == "__main__":
    main()
