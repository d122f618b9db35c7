"""The lesson's acceptance table, row by row, in both profiles, and foretold by explain at each row.

The rows build on each other, so they are one test in order.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex

from tests.e2e.mesh import STATE, Mesh, until
from tulle.cli.explain import live
from tulle.cli.explain.report import explain
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import live as live_world
from tulle.cli.lab import Result
from tulle.cli.lesson import CURL, FORBIDDEN, FROM_TEST, FROM_WEB, OK, RESET, UNAVAILABLE, Outcome
from tulle.kube.client import Client

TIMES = 100
REFUSED = (RESET, UNAVAILABLE)
ANSWERED = Outcome(0, "200")
CODES = {OK: "200", ANSWERED: "200", FORBIDDEN: "403", UNAVAILABLE: "503", RESET: "reset"}
"""What explain calls an outcome."""


def settles(mesh: Mesh, line: str, wanted: Outcome) -> None:
    """The outcome comes about, and explain says so of the cluster as it is now."""
    mesh.settles(line, wanted)
    assert foretold(line) == CODES[wanted], line


def foretold(line: str) -> str:
    """What explain says of curl's request in a pod; the code of the command, in this process."""
    before, asked = (shlex.split(part) for part in line.split(" -- "))
    client = Client.from_kubeconfig(str(STATE / "kubeconfig"))
    world = live_world(asyncio.run(live.load(client, "istio-system")))
    method = "HEAD" if "-I" in asked else "GET"
    return explain(world, Ask(f"pod/{before[-1]}", before[before.index("-n") + 1], method, asked[-1])).sees.code


def always(mesh: Mesh, line: str, wanted: Outcome) -> None:
    """The same outcome every time once it has settled."""
    settles(mesh, line, wanted)
    before, asked = line.replace(" -it", "").split(" -- ")
    looped = f"for n in $(seq {TIMES}); do {asked} 2>&1; echo exit $?; done"
    output = mesh.ok(f"{before} -- sh -c {shlex.quote(looped)}")
    results = [Result(int(code), text) for text, code in re.findall(r"(.*?)^exit (\d+)$", output, re.M | re.S)]
    different = [result for result in results if not result.meets(wanted)]
    assert different == [], f"{len(different)} of {TIMES} came out differently, first: {different[0]}"
    assert len(results) == TIMES


def by_profile(mesh: Mesh, *, lesson: Outcome, istio: Outcome) -> Outcome:
    return {"lesson": lesson, "istio": istio}[mesh.profile]


def populate(mesh: Mesh) -> None:
    mesh.ok("kubectl create namespace test && kubectl create namespace hello && kubectl create namespace web")
    mesh.ok("kubectl run curl --image=curlimages/curl -n test --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl run nginx --image=nginx -n web --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl label namespace hello istio.io/dataplane-mode=ambient")
    mesh.ok("kubectl apply -f helloworld.yaml -n hello")
    mesh.ok("kubectl wait -n hello deployment --all --for=condition=Available --timeout=120s")
    mesh.ok("kubectl wait -n test pod/curl --for=condition=Ready --timeout=120s")
    mesh.ok("kubectl wait -n web pod/nginx --for=condition=Ready --timeout=120s")


def test_the_table(profile_mesh: Mesh) -> None:
    mesh = profile_mesh
    populate(mesh)

    # Row 1: STRICT, and the client is outside the mesh.
    mesh.ok("kubectl apply -f global-pa.yaml")
    always(mesh, FROM_TEST, RESET)

    # Row 2: the client's namespace is labelled; no pod restarts.
    restarts = "kubectl get pod -n test curl -o jsonpath={.metadata.uid}{.status.containerStatuses[0].restartCount}"
    before = mesh.ok(restarts)
    mesh.ok("kubectl label namespace test istio.io/dataplane-mode=ambient")
    settles(mesh, FROM_TEST, OK)
    assert mesh.ok(restarts) == before

    # Row 3: an ALLOW policy with an HTTP method, and no waypoint.
    mesh.ok("kubectl apply -f hw.yaml")
    always(mesh, FROM_TEST, by_profile(mesh, lesson=UNAVAILABLE, istio=RESET))

    # Row 4: a waypoint.
    mesh.ok("istioctl waypoint apply -n hello")
    mesh.ok("kubectl label namespace hello istio.io/waypoint=enabled")
    mesh.ok("kubectl wait -n hello gateway/waypoint --for=condition=Programmed --timeout=120s")
    if mesh.profile == "istio":
        settles(mesh, FROM_TEST, RESET)
        mesh.ok("kubectl label namespace hello istio.io/use-waypoint=waypoint")
    answered_by_waypoint(mesh)

    # Row 5: a policy by principal, whether or not hw.yaml is still there.
    mesh.ok("kubectl apply -f hw-v2.yaml")
    settles(mesh, FROM_TEST, by_profile(mesh, lesson=OK, istio=UNAVAILABLE))
    command = "tulle explain -n test pod/curl HEAD http://helloworld.hello:5000/hello -o json"
    assert json.loads(mesh.ok(command))["sees"]["code"] == foretold(FROM_TEST)
    mesh.ok("kubectl delete -f hw.yaml")
    settles(mesh, FROM_TEST, by_profile(mesh, lesson=OK, istio=UNAVAILABLE))

    # Row 6: another identity; and row 8: past the waypoint, by pod IP.
    mesh.ok("kubectl label namespace web istio.io/dataplane-mode=ambient")
    settles(mesh, FROM_WEB, by_profile(mesh, lesson=FORBIDDEN, istio=UNAVAILABLE))
    if mesh.profile == "lesson":
        body = "kubectl exec -n web nginx -- curl -s http://helloworld.hello:5000/hello"
        assert mesh.ok(body).strip() == "RBAC: access denied"
        pod = mesh.ok("kubectl get pod -n hello -l version=v1 -o jsonpath={.items[0].status.podIP}")
        for line in (FROM_TEST, FROM_WEB):
            past = line.replace("helloworld.hello.svc.cluster.local", pod)
            refused = until(lambda past=past: mesh.run(past), lambda result: any(map(result.meets, REFUSED)), past)
            assert foretold(past) in [CODES[one] for one in REFUSED if refused.meets(one)]

    # Row 5b: upstream's form of the policy, by targetRef.
    mesh.ok("kubectl delete -f hw-v2.yaml")
    mesh.ok("sed 's/, \"HEAD\"//' hw-v2-target.yaml > by-target.yaml && kubectl apply -f by-target.yaml")
    settles(mesh, FROM_TEST, by_profile(mesh, lesson=OK, istio=FORBIDDEN))
    get = FROM_TEST.replace(CURL, CURL.replace("-I", "-s -o /dev/null -w %{http_code}"))
    settles(mesh, get, ANSWERED)
    settles(mesh, FROM_WEB, FORBIDDEN)

    # Row 7: no policy left.
    mesh.ok("kubectl delete -f by-target.yaml")
    settles(mesh, FROM_TEST, OK)
    settles(mesh, FROM_WEB, OK)
    mesh.ok("kubectl label namespace web istio.io/dataplane-mode-")
    settles(mesh, FROM_WEB, RESET)


def answered_by_waypoint(mesh: Mesh) -> None:
    """The client's 503 is the waypoint's: its log has the request, refused by what stands behind it."""
    logs = "kubectl logs -n hello -l gateway.networking.k8s.io/gateway-name=waypoint --tail=-1"
    mesh.settles(f"{FROM_TEST} && {logs}", Outcome(0, '"response_code":503'))
    settles(mesh, FROM_TEST, UNAVAILABLE)
