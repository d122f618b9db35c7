"""The controllers against the real API server, as the real kubectl sees them."""

import json

import yaml

from .conftest import Cluster


def names(cluster: Cluster, *what: str) -> list[str]:
    return cluster.kubectl("get", *what, "-o", "name").split()


def events(cluster: Cluster) -> list[str]:
    path = "{range .items[*]}{.type} {.reason} {.involvedObject.kind}: {.message}{'\\n'}{end}"
    return cluster.kubectl("get", "events", "-o", f"jsonpath={path}").splitlines()


def test_namespace_has_its_account_and_root_certificate(cluster: Cluster) -> None:
    cluster.until(lambda: "serviceaccount/default" in names(cluster, "sa"))
    cluster.until(lambda: "configmap/kube-root-ca.crt" in names(cluster, "cm"))
    pem = (cluster.state / "pki" / "ca.crt").read_text()
    path = "jsonpath={.data.ca\\.crt}"
    assert cluster.kubectl("get", "cm", "kube-root-ca.crt", "-o", path) == pem.strip()
    cluster.kubectl("patch", "cm", "kube-root-ca.crt", "-p", '{"data":{"ca.crt":"forged","more":"x"}}')
    cluster.until(lambda: cluster.kubectl("get", "cm", "kube-root-ca.crt", "-o", path) == pem.strip())
    cluster.kubectl("delete", "sa", "default")
    cluster.until(lambda: "serviceaccount/default" in names(cluster, "sa"))


def test_deployment_from_creation_to_undo(cluster: Cluster) -> None:
    cluster.kubectl("create", "deployment", "web", "--image=nginx:1", "--replicas=2")
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.kubectl("wait", "--for=condition=Available", "deploy/web", "--timeout=120s")
    wide = cluster.kubectl("get", "pods", "-o", "wide", "--no-headers")
    assert {line.split()[6] for line in wide.splitlines()} == {"n1", "n2"}
    first = names(cluster, "rs")[0].split("/")[1]

    cluster.kubectl("set", "image", "deploy/web", "nginx=nginx:2")
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.kubectl("rollout", "undo", "deploy/web")
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    sizes = cluster.kubectl("get", "rs", first, "-o", "jsonpath={.spec.replicas} {.status.readyReplicas}")
    assert sizes == "2 2"
    history = cluster.kubectl("rollout", "history", "deploy/web")
    assert [line.split()[0] for line in history.splitlines()[2:]] == ["2", "3"]

    cluster.kubectl("scale", "deploy/web", "--replicas=3")
    cluster.kubectl("rollout", "restart", "deploy/web")
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.until(lambda: len(names(cluster, "pods")) == 3)
    seen = events(cluster)
    assert f"Normal ScalingReplicaSet Deployment: Scaled up replica set {first} from 0 to 2" in seen
    assert f"Normal ScalingReplicaSet Deployment: Scaled down replica set {first} from 1 to 0" in seen
    assert any(line.startswith(f"Normal SuccessfulCreate ReplicaSet: Created pod: {first}-") for line in seen)
    assert any(line.startswith("Normal Scheduled Pod: Successfully assigned ") for line in seen)


def test_a_broken_update_stops_and_leaves_what_works(cluster: Cluster) -> None:
    cluster.kubectl("create", "deployment", "web", "--image=x", "--replicas=4")
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.kubectl("patch", "deploy", "web", "-p", '{"spec":{"progressDeadlineSeconds":1}}')
    cluster.kubectl("set", "image", "deploy/web", "*=never-starts")
    stuck = cluster.run("rollout", "status", "deploy/web", "--timeout=120s")
    assert stuck.returncode == 1
    assert "exceeded its progress deadline" in stuck.stderr
    counts = cluster.kubectl(
        "get", "deploy", "web", "-o", "jsonpath={.status.availableReplicas} {.status.updatedReplicas}"
    )
    assert counts == "3 2"


def test_recreate_never_has_two_versions(cluster: Cluster) -> None:
    manifest = yaml.safe_load(
        cluster.kubectl("create", "deployment", "one", "--image=x:1", "--dry-run=client", "-o", "yaml", "--replicas=2")
    )
    manifest["spec"]["strategy"] = {"type": "Recreate"}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl("rollout", "status", "deploy/one", "--timeout=120s")
    cluster.kubectl("set", "image", "deploy/one", "x=x:2")
    cluster.kubectl("rollout", "status", "deploy/one", "--timeout=120s")
    sizes = [line.split("from")[1].split() for line in reversed(events(cluster)) if "ScalingReplicaSet" in line]
    assert sorted(sizes) == [["0", "to", "2"], ["0", "to", "2"], ["2", "to", "0"]]


def test_a_paused_deployment_waits(cluster: Cluster) -> None:
    cluster.kubectl("create", "deployment", "web", "--image=x:1")
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.kubectl("rollout", "pause", "deploy/web")
    cluster.kubectl("set", "image", "deploy/web", "x=x:2")
    cluster.kubectl("scale", "deploy/web", "--replicas=2")
    cluster.until(lambda: cluster.kubectl("get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}") == "2")
    assert len(names(cluster, "rs")) == 1
    cluster.kubectl("rollout", "resume", "deploy/web")
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    assert len(names(cluster, "rs")) == 2


def test_daemonset_runs_updates_and_undoes(cluster: Cluster) -> None:
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}
    spec = {"selector": {"matchLabels": {"app": "d"}}, "template": template}
    manifest = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}, "spec": spec}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl("rollout", "status", "ds/d", "--timeout=120s")
    nodes = cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert sorted(nodes.split()) == ["n1", "n2"]
    cluster.kubectl("set", "image", "ds/d", "c=x:2")
    cluster.kubectl("rollout", "status", "ds/d", "--timeout=120s")
    cluster.kubectl("rollout", "undo", "ds/d")
    cluster.kubectl("rollout", "status", "ds/d", "--timeout=120s")
    images = cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}")
    assert images == "x:1 x:1"
    assert [line.split()[0] for line in cluster.kubectl("rollout", "history", "ds/d").splitlines()[2:]] == ["2", "3"]
    surge = {"spec": {"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}
    cluster.kubectl("patch", "ds", "d", "-p", json.dumps(surge))
    cluster.kubectl("rollout", "restart", "ds/d")
    cluster.kubectl("rollout", "status", "ds/d", "--timeout=120s")
    cluster.until(lambda: len(names(cluster, "pods")) == 2)
    cluster.kubectl("patch", "ds", "d", "-p", '{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}')
    cluster.kubectl("set", "image", "ds/d", "c=x:3")
    cluster.kubectl("delete", "pod", "-l", "app=d", "--field-selector=spec.nodeName=n1")
    cluster.until(lambda: cluster.kubectl("get", "ds", "d", "-o", "jsonpath={.status.numberReady}") == "2")
    images = cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}")
    assert sorted(images.split()) == ["x:1", "x:3"]
    cluster.kubectl("delete", "ds", "d")
    cluster.until(lambda: names(cluster, "pods,controllerrevisions") == [])


def test_endpoints_follow_pods(cluster: Cluster) -> None:
    def endpoints(path: str) -> str:
        selector = "kubernetes.io/service-name=web"
        return cluster.kubectl("get", "endpointslice", "-l", selector, "-o", f"jsonpath={{.items[*]{path}}}")

    cluster.kubectl("create", "deployment", "web", "--image=x", "--replicas=2", "--port=8080")
    cluster.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.until(lambda: endpoints(".endpoints[*].conditions.ready") == "true true")
    assert endpoints(".ports[*].port") == "8080"
    assert endpoints(".metadata.labels.endpointslice\\.kubernetes\\.io/managed-by") == "endpointslice-controller.k8s.io"
    pods = cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.podIP}")
    assert sorted(endpoints(".endpoints[*].addresses[*]").split()) == sorted(pods.split())
    unready = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    pod = names(cluster, "pods")[0]
    cluster.kubectl("patch", pod, "--subresource=status", "-p", json.dumps(unready))
    cluster.until(lambda: sorted(endpoints(".endpoints[*].conditions.ready").split()) == ["false", "true"])
    cluster.kubectl("patch", "service", "web", "-p", '{"spec":{"publishNotReadyAddresses":true}}')
    cluster.until(lambda: endpoints(".endpoints[*].conditions.ready") == "true true")
    assert sorted(endpoints(".endpoints[*].conditions.serving").split()) == ["false", "true"]
    cluster.kubectl("scale", "deploy/web", "--replicas=0")
    cluster.until(lambda: endpoints(".endpoints[*].addresses") == "")
    cluster.kubectl("delete", "service", "web")
    cluster.until(lambda: names(cluster, "endpointslice") == [])


def test_three_ways_to_delete(cluster: Cluster) -> None:
    for name in ("back", "fore", "orphan"):
        cluster.kubectl("create", "deployment", name, "--image=x")
        cluster.kubectl("rollout", "status", f"deploy/{name}", "--timeout=120s")
    cluster.kubectl("delete", "deploy", "fore", "--cascade=foreground")
    assert names(cluster, "rs,pods", "-l", "app=fore") == []
    cluster.kubectl("delete", "deploy", "back")
    cluster.until(lambda: names(cluster, "rs,pods", "-l", "app=back") == [])
    cluster.kubectl("delete", "deploy", "orphan", "--cascade=orphan")
    assert len(names(cluster, "rs,pods", "-l", "app=orphan")) == 2
    owners = "jsonpath={.items[*].metadata.ownerReferences}"
    assert cluster.kubectl("get", "rs", "-l", "app=orphan", "-o", owners) == ""
    cluster.kubectl("create", "deployment", "orphan", "--image=x")
    cluster.kubectl("rollout", "status", "deploy/orphan", "--timeout=120s")
    assert len(names(cluster, "rs,pods", "-l", "app=orphan")) == 2


def test_custom_objects_go_with_their_owner(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "owner")
    uid = cluster.kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}")

    def policy(name: str, *uids: str) -> None:
        owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": one} for one in uids]
        manifest = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication"}
        meta = {"name": name, "ownerReferences": owners}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps({**manifest, "metadata": meta}))

    policy("mine", uid)
    policy("stranger", "00000000-0000-0000-0000-000000000000")
    cluster.until(lambda: names(cluster, "pa") == ["peerauthentication.security.istio.io/mine"])
    cluster.kubectl("delete", "configmap", "owner")
    cluster.until(lambda: names(cluster, "pa") == [])


def test_namespace_goes_with_all_it_has(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "doomed")
    cluster.kubectl("create", "deployment", "web", "--image=x", "--replicas=2", "-n", "doomed")
    cluster.kubectl("rollout", "status", "deploy/web", "-n", "doomed", "--timeout=120s")
    meta = {"name": "held", "finalizers": ["example.com/hold"]}
    held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"some": "thing"}}
    cluster.kubectl("create", "-n", "doomed", "-f", "-", stdin=json.dumps(held))
    cluster.kubectl("delete", "namespace", "doomed", "--wait=false")
    path = "jsonpath={.status.phase} {.status.conditions[*].type}"
    cluster.until(lambda: "NamespaceFinalizersRemaining" in cluster.kubectl("get", "ns", "doomed", "-o", path))
    assert cluster.kubectl("get", "ns", "doomed", "-o", path).startswith("Terminating")
    cluster.kubectl("patch", "cm", "held", "-n", "doomed", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    cluster.kubectl("wait", "--for=delete", "ns/doomed", "--timeout=120s")
    assert names(cluster, "all", "-n", "doomed") == []


def test_a_pod_that_fits_nowhere_says_why(cluster: Cluster) -> None:
    picky = {"spec": {"nodeSelector": {"disk": "gold"}}}
    cluster.kubectl("run", "picky", "--image=x", f"--overrides={json.dumps(picky)}")
    path = "jsonpath={.status.conditions[?(@.type=='PodScheduled')].message}"
    message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    cluster.until(lambda: cluster.kubectl("get", "pod", "picky", "-o", path) == message)
    cluster.until(lambda: f"Warning FailedScheduling Pod: {message}" in events(cluster))
    cluster.kubectl("label", "node", "n2", "disk=gold")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/picky", "--timeout=120s")
    assert cluster.kubectl("get", "pod", "picky", "-o", "jsonpath={.spec.nodeName}") == "n2"
    cluster.kubectl("label", "node", "n2", "disk-")


def test_restarts_lose_nothing(cluster: Cluster) -> None:
    cluster.kubectl("create", "deployment", "web", "--image=x:1", "--replicas=4")
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.kubectl("set", "image", "deploy/web", "x=x:2")
    cluster.stop("controllers", kill=True)
    cluster.stop("api", kill=True)
    cluster.start_api()
    cluster.kubectl("scale", "deploy/web", "--replicas=6")
    cluster.start_controllers()
    cluster.kubectl("rollout", "status", "deploy/web", "--timeout=120s")
    cluster.until(lambda: len(names(cluster, "pods")) == 6)
    cluster.stop("api", kill=True)
    cluster.start_api()
    cluster.kubectl("scale", "deploy/web", "--replicas=1")
    cluster.until(lambda: len(names(cluster, "pods")) == 1)


def test_a_lost_node_is_seen_and_its_pods_are_moved(cluster: Cluster) -> None:
    cluster.start_node("n3", 3)
    cluster.kubectl("wait", "--for=create", "node/n3", "--timeout=120s")
    tolerations = [
        {"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
        for name in ("not-ready", "unreachable")
    ]
    template = {
        "metadata": {"labels": {"app": "m"}},
        "spec": {"containers": [{"name": "c", "image": "x"}], "tolerations": tolerations},
    }
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "m"}}, "template": template}
    manifest = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m"}, "spec": spec}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    cluster.kubectl("rollout", "status", "deploy/m", "--timeout=120s")
    placed = cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert "n3" in placed.split()

    cluster.stop("n3", kill=True)
    cluster.kubectl("wait", "--for=condition=Ready=Unknown", "node/n3", "--timeout=120s")
    cluster.until(lambda: "NotReady" in cluster.kubectl("get", "node", "n3"))
    taints = "jsonpath={.spec.taints[*].key}"
    cluster.until(lambda: "node.kubernetes.io/unreachable" in cluster.kubectl("get", "node", "n3", "-o", taints))
    cluster.until(lambda: cluster.kubectl("get", "deploy", "m", "-o", "jsonpath={.status.readyReplicas}") == "3")
    cluster.kubectl("delete", "node", "n3")
    cluster.until(lambda: len(names(cluster, "pods")) == 3)
    placed = cluster.kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}")
    assert set(placed.split()) <= {"n1", "n2"}


def test_no_controller_crashed(cluster: Cluster) -> None:
    assert "controller crashed" not in cluster.log("controllers")
    assert "Traceback" not in cluster.log("controllers")
