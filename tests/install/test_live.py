"""Installing into a cluster that runs, and removing from it again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.mesh import Mesh
from tests.support.live_mesh import populate, running
from tulle.cli.lesson import FROM_TEST, OK, Outcome

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("install")) as made:
        populate(made)
        yield made


def test_installing_again_changes_nothing(mesh: Mesh) -> None:
    pods = "kubectl get pods -n istio-system -o jsonpath={.items[*].metadata.uid}"
    before = mesh.ok(pods)
    output = mesh.ok("tulle install")
    assert "objects applied (profile lesson)" in output
    assert "istiod, istio-cni-node and ztunnel are Ready" in output
    assert mesh.ok(pods) == before


def test_nothing_is_removed_under_captured_pods(mesh: Mesh) -> None:
    refused = mesh.run("tulle uninstall")
    assert refused.code == 1
    assert "3 pods are captured (hello/helloworld-v1" in refused.output
    assert "take the label istio.io/dataplane-mode from their namespaces first" in refused.output
    mesh.settles(FROM_TEST, OK)


def test_removed_and_put_back_by_kubectl(mesh: Mesh) -> None:
    mesh.ok("kubectl label namespace test hello istio.io/dataplane-mode-")
    annotated = "kubectl get pods -A -o jsonpath={..metadata.annotations}"
    mesh.settles(f"{annotated} | grep -c 'redirection\":\"enabled' || true", Outcome(0, "0"))
    assert "the mesh is removed" in mesh.ok("tulle uninstall --crds")
    mesh.settles("kubectl get namespace istio-system", Outcome(1, "NotFound"))
    for kind in ("crd", "clusterrole", "validatingwebhookconfiguration"):
        left = mesh.ok(f"kubectl get {kind} -o name")
        assert not any(word in left for word in ("istio", "ztunnel")), left
    mesh.settles(FROM_TEST, OK)

    mesh.ok("tulle manifest generate --profile istio | kubectl apply -f -")
    for workload in ("deployment/istiod", "daemonset/istio-cni-node", "daemonset/ztunnel"):
        mesh.ok(f"kubectl rollout status -n istio-system {workload} --timeout=120s")
    mesh.ok("kubectl label namespace test hello istio.io/dataplane-mode=ambient")
    mesh.settles("istioctl zc w --workload-namespace test", Outcome(0, "HBONE"))
    mesh.settles(FROM_TEST, OK)
