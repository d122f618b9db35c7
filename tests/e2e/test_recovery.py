"""Any pod of istio-system may die at any time: it comes back, and traffic works again without anybody doing anything."""

from __future__ import annotations

import pytest

from tests.e2e.mesh import Mesh
from tulle.cli.lesson import FROM_TEST, OK, RESET, Outcome


@pytest.fixture(scope="module")
def lesson(mesh: Mesh) -> Mesh:
    mesh.ok("kubectl create namespace test && kubectl create namespace hello && kubectl create namespace out")
    mesh.ok("kubectl label namespace test hello istio.io/dataplane-mode=ambient")
    for namespace in ("test", "out"):
        mesh.ok(f"kubectl run curl --image=curlimages/curl -n {namespace} --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl apply -f helloworld.yaml -n hello && kubectl apply -f global-pa.yaml")
    mesh.ok("kubectl wait -n hello deployment --all --for=condition=Available --timeout=120s")
    mesh.ok("kubectl wait -n test pod/curl --for=condition=Ready --timeout=120s")
    mesh.ok("kubectl wait -n out pod/curl --for=condition=Ready --timeout=120s")
    mesh.settles(FROM_TEST, OK)
    return mesh


@pytest.mark.parametrize("label", ["app=ztunnel", "app=istiod", "k8s-app=istio-cni-node"])
def test_a_deleted_pod_of_the_mesh_comes_back(lesson: Mesh, label: str) -> None:
    names = f"kubectl get pod -n istio-system -l {label} -o jsonpath={{.items[*].metadata.name}}"
    before = lesson.ok(names)
    lesson.ok(f"kubectl delete pod -n istio-system -l {label} --timeout=120s")
    lesson.settles(
        f"kubectl wait -n istio-system pod -l {label} --for=condition=Ready --timeout=120s", Outcome(0, "condition met")
    )
    assert lesson.ok(names) != before
    lesson.settles(FROM_TEST, OK)
    lesson.settles(FROM_TEST.replace("-n test", "-n out"), RESET)


def test_a_waypoint_comes_back(lesson: Mesh) -> None:
    lesson.ok("istioctl waypoint apply -n hello --enroll-namespace --wait")
    lesson.settles(FROM_TEST, OK)
    lesson.ok("kubectl delete pod -n hello -l gateway.networking.k8s.io/gateway-name=waypoint --now")
    lesson.ok("kubectl wait -n hello deployment/waypoint --for=condition=Available --timeout=120s")
    lesson.settles(FROM_TEST, OK)


def test_a_new_pod_is_in_the_mesh_from_its_first_moment(lesson: Mesh) -> None:
    command = "curl -s -o /dev/null -w %{http_code} http://helloworld.hello:5000/hello"
    lesson.ok(f"kubectl run once --image=curlimages/curl -n test --restart=Never --command -- {command}")
    lesson.settles("kubectl get pod -n test once -o jsonpath={.status.phase}", Outcome(0, "Succeeded"))
    assert lesson.ok("kubectl logs -n test once") == "200"
