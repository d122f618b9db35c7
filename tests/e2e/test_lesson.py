"""The lesson's acceptance table, row by row, in both profiles. The rows build on each other, so they are one test in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.e2e.mesh import Mesh, until
from tulle.cli.lesson import CURL, FORBIDDEN, FROM_TEST, FROM_WEB, OK, RESET, UNAVAILABLE, Outcome

TIMES = 100
AT_ONCE = 4
REFUSED = (RESET, UNAVAILABLE)


def always(mesh: Mesh, line: str, wanted: Outcome) -> None:
    """The same outcome every time once it has settled."""
    mesh.settles(line, wanted)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        different = [result for result in pool.map(mesh.run, [line] * TIMES) if not result.meets(wanted)]
    assert different == [], f"{len(different)} of {TIMES} came out differently, first: {different[0]}"


def by_profile(mesh: Mesh, *, lesson: Outcome, istio: Outcome) -> Outcome:
    return {"lesson": lesson, "istio": istio}[mesh.profile]


def test_the_table(profile_mesh: Mesh) -> None:
    mesh = profile_mesh
    mesh.ok("kubectl create namespace test && kubectl create namespace hello && kubectl create namespace web")
    mesh.ok("kubectl run curl --image=curlimages/curl -n test --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl run nginx --image=nginx -n web --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl label namespace hello istio.io/dataplane-mode=ambient")
    mesh.ok("kubectl apply -f helloworld.yaml -n hello")
    mesh.ok("kubectl wait -n hello deployment --all --for=condition=Available --timeout=60s")
    mesh.ok("kubectl wait -n test pod/curl --for=condition=Ready --timeout=60s")
    mesh.ok("kubectl wait -n web pod/nginx --for=condition=Ready --timeout=60s")

    # Row 1: STRICT, and the client is outside the mesh.
    mesh.ok("kubectl apply -f global-pa.yaml")
    always(mesh, FROM_TEST, RESET)

    # Row 2: the client's namespace is labelled; no pod restarts.
    restarts = "kubectl get pod -n test curl -o jsonpath={.metadata.uid}{.status.containerStatuses[0].restartCount}"
    before = mesh.ok(restarts)
    mesh.ok("kubectl label namespace test istio.io/dataplane-mode=ambient")
    mesh.settles(FROM_TEST, OK)
    assert mesh.ok(restarts) == before

    # Row 3: an ALLOW policy with an HTTP method, and no waypoint.
    mesh.ok("kubectl apply -f hw.yaml")
    always(mesh, FROM_TEST, by_profile(mesh, lesson=UNAVAILABLE, istio=RESET))

    # Row 4: a waypoint.
    mesh.ok("istioctl waypoint apply -n hello")
    mesh.ok("kubectl label namespace hello istio.io/waypoint=enabled")
    mesh.ok("kubectl wait -n hello gateway/waypoint --for=condition=Programmed --timeout=60s")
    if mesh.profile == "istio":
        mesh.settles(FROM_TEST, RESET)
        mesh.ok("kubectl label namespace hello istio.io/use-waypoint=waypoint")
    answered_by_waypoint(mesh)

    # Row 5: a policy by principal, whether or not hw.yaml is still there.
    mesh.ok("kubectl apply -f hw-v2.yaml")
    mesh.settles(FROM_TEST, by_profile(mesh, lesson=OK, istio=UNAVAILABLE))
    mesh.ok("kubectl delete -f hw.yaml")
    mesh.settles(FROM_TEST, by_profile(mesh, lesson=OK, istio=UNAVAILABLE))

    # Row 6: another identity; and row 8: past the waypoint, by pod IP.
    mesh.ok("kubectl label namespace web istio.io/dataplane-mode=ambient")
    mesh.settles(FROM_WEB, by_profile(mesh, lesson=FORBIDDEN, istio=UNAVAILABLE))
    if mesh.profile == "lesson":
        body = "kubectl exec -n web nginx -- curl -s http://helloworld.hello:5000/hello"
        assert mesh.ok(body).strip() == "RBAC: access denied"
        pod = mesh.ok("kubectl get pod -n hello -l version=v1 -o jsonpath={.items[0].status.podIP}")
        for line in (FROM_TEST, FROM_WEB):
            past = line.replace("helloworld.hello.svc.cluster.local", pod)
            until(lambda past=past: mesh.run(past), lambda result: any(map(result.meets, REFUSED)), past)

    # Row 5b: upstream's form of the policy, by targetRef.
    mesh.ok("kubectl delete -f hw-v2.yaml")
    mesh.ok("sed 's/, \"HEAD\"//' hw-v2-target.yaml > by-target.yaml && kubectl apply -f by-target.yaml")
    mesh.settles(FROM_TEST, by_profile(mesh, lesson=OK, istio=FORBIDDEN))
    get = FROM_TEST.replace(CURL, CURL.replace("-I", "-s -o /dev/null -w %{http_code}"))
    mesh.settles(get, Outcome(0, "200"))
    mesh.settles(FROM_WEB, FORBIDDEN)

    # Row 7: no policy left.
    mesh.ok("kubectl delete -f by-target.yaml")
    mesh.settles(FROM_TEST, OK)
    mesh.settles(FROM_WEB, OK)
    mesh.ok("kubectl label namespace web istio.io/dataplane-mode-")
    mesh.settles(FROM_WEB, RESET)


def answered_by_waypoint(mesh: Mesh) -> None:
    """The client's 503 is the waypoint's: its log has the request, refused by what stands behind it."""
    logs = "kubectl logs -n hello -l gateway.networking.k8s.io/gateway-name=waypoint --tail=-1"
    mesh.settles(f"{FROM_TEST} && {logs}", Outcome(0, '"response_code":503'))
    mesh.settles(FROM_TEST, UNAVAILABLE)
