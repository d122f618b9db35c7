"""The real kubectl against the real server."""

from __future__ import annotations

import json
import re
import subprocess
import time

import yaml

from .conftest import KUBECTL, Kubectl, ServerProcess

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "nginx:1.27", ports: [{containerPort: 80, name: http}]}
"""

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wg], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        description: A widget.
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1, description: How big.}
              replicas: {type: integer, default: 2}
              color: {type: string, enum: [red, blue], default: red}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
  - {name: v1beta1, served: true, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
"""


def lines(output: str) -> list[list[str]]:
    return [line.split() for line in output.strip().splitlines()]


def test_an_empty_cluster(kubectl: Kubectl) -> None:
    names = [row[0] for row in lines(kubectl("get", "namespaces"))]
    assert names[0] == "NAME"
    assert {"default", "kube-node-lease", "kube-public", "kube-system"} <= set(names)
    service = lines(kubectl("get", "service", "kubernetes", "-n", "default"))
    assert service[0] == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert service[1][:5] == ["kubernetes", "ClusterIP", "10.96.0.1", "<none>", "443/TCP"]
    assert kubectl("auth", "can-i", "*", "*").strip() == "yes"
    assert "Server Version: v1.36.4" in kubectl("version")
    assert kubectl.run("cluster-info").returncode == 0


def test_create_by_protobuf(kubectl: Kubectl, namespace: str) -> None:
    in_it = ("-n", namespace)
    assert kubectl("create", "configmap", "cm", "--from-literal=a=b", *in_it) == "configmap/cm created\n"
    kubectl("create", "secret", "generic", "s", "--from-literal=p=q", *in_it)
    kubectl("create", "deployment", "web", "--image=nginx", "--replicas=2", "--port=80", *in_it)
    kubectl("create", "service", "nodeport", "np", "--tcp=80:8080", *in_it)
    kubectl("create", "role", "r", "--verb=get,list", "--resource=pods", *in_it)
    kubectl("create", "rolebinding", "rb", "--role=r", f"--serviceaccount={namespace}:default", *in_it)
    kubectl("create", "clusterrole", f"cr-{namespace}", "--verb=get", "--non-resource-url=/metrics")
    kubectl("autoscale", "deployment", "web", "--max=3", *in_it)
    kubectl("create", "pdb", "pdb", "--selector=app=web", "--min-available=50%", *in_it)
    assert kubectl("create", "token", "default", *in_it).count(".") == 2
    deployment = kubectl.get("deployment", "web", *in_it)
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": "25%"}
    assert deployment["spec"]["template"]["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "protocol": "TCP"}
    ]
    port = kubectl.get("service", "np", *in_it)["spec"]["ports"][0]
    assert (port["targetPort"], 30000 <= port["nodePort"] <= 32767) == (8080, True)
    assert (
        kubectl("auth", "can-i", "list", "pods", *in_it, f"--as=system:serviceaccount:{namespace}:default") == "yes\n"
    )
    budget = lines(kubectl("get", "pdb", *in_it))[1]
    assert budget[:4] == ["pdb", "50%", "N/A", "0"]


def test_run_and_what_a_pod_gets(kubectl: Kubectl, namespace: str) -> None:
    assert kubectl("run", "p", "--image=nginx", "-n", namespace) == "pod/p created\n"
    pod = kubectl.get("pod", "p", "-n", namespace)
    spec = pod["spec"]
    assert (spec["restartPolicy"], spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]) == (
        "Always",
        "ClusterFirst",
        30,
    )
    assert spec["containers"][0]["imagePullPolicy"] == "Always"
    assert re.fullmatch("kube-api-access-[a-z0-9]{5}", spec["volumes"][0]["name"])
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    table = lines(kubectl("get", "pods", "-n", namespace))
    assert table[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert table[1][:4] == ["p", "0/1", "Pending", "0"]
    described = kubectl("describe", "pod", "p", "-n", namespace)
    assert "QoS Class:                   BestEffort" in described
    missing = kubectl.fails(
        "run", "q", "--image=i", "-n", namespace, '--overrides={"spec":{"serviceAccountName":"no"}}'
    )
    assert f'error looking up service account {namespace}/no: serviceaccount "no" not found' in missing


def test_apply_in_its_life(kubectl: Kubectl, namespace: str) -> None:
    apply = ("apply", "-n", namespace, "-f", "-")
    assert kubectl(*apply, stdin=DEPLOYMENT) == "deployment.apps/web created\n"
    assert kubectl(*apply, stdin=DEPLOYMENT) == "deployment.apps/web unchanged\n"
    changed = DEPLOYMENT.replace("name: http", "name: web").replace("1.27", "1.28")
    assert kubectl(*apply, "--dry-run=server", stdin=changed) == "deployment.apps/web configured (server dry run)\n"
    difference = kubectl.run("diff", "-n", namespace, "-f", "-", stdin=changed)
    assert difference.returncode == 1
    assert "+      - image: nginx:1.28" in difference.stdout
    assert kubectl(*apply, stdin=changed) == "deployment.apps/web configured\n"
    container = kubectl.get("deployment", "web", "-n", namespace)["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], [p["name"] for p in container["ports"]]) == ("nginx:1.28", ["web"])
    assert kubectl("delete", "-n", namespace, "-f", "-", stdin=DEPLOYMENT).startswith('deployment.apps "web" deleted')


def test_apply_server_side(kubectl: Kubectl, namespace: str) -> None:
    apply = ("apply", "--server-side", "-n", namespace, "-f", "-")
    scaled = DEPLOYMENT.replace("selector:", "replicas: 4\n  selector:")
    assert kubectl(*apply, stdin=scaled) == "deployment.apps/web serverside-applied\n"
    other = scaled.replace("replicas: 4", "replicas: 2")
    refused = kubectl.fails(*apply, "--field-manager=other", stdin=other)
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas' in refused
    kubectl(*apply, "--field-manager=other", "--force-conflicts", stdin=other)
    kubectl(*apply, stdin=DEPLOYMENT)
    assert kubectl.get("deployment", "web", "-n", namespace)["spec"]["replicas"] == 2
    migrated = kubectl("apply", "-n", namespace, "-f", "-", stdin=DEPLOYMENT)
    assert migrated == "deployment.apps/web configured\n"


def test_imperative_changes(kubectl: Kubectl, namespace: str) -> None:
    in_it = ("-n", namespace)
    kubectl("apply", *in_it, "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("label", "deployment", "web", "tier=front", *in_it) == "deployment.apps/web labeled\n"
    assert "already has a value" in kubectl.fails("label", "deployment", "web", "tier=back", *in_it)
    kubectl("annotate", "deployment", "web", "note=x", *in_it)
    assert kubectl("scale", "deployment", "web", "--replicas=3", *in_it) == "deployment.apps/web scaled\n"
    kubectl("set", "image", "deployment/web", "c=nginx:1.29", *in_it)
    kubectl("set", "env", "deployment/web", "A=b", *in_it)
    kubectl("rollout", "restart", "deployment/web", *in_it)
    kubectl(
        "patch", "deployment", "web", *in_it, "--type=json", '-p=[{"op":"remove","path":"/metadata/annotations/note"}]'
    )
    found = kubectl.get("deployment", "web", *in_it)
    assert found["spec"]["replicas"] == 3
    assert found["metadata"]["labels"] == {"tier": "front"}
    container = found["spec"]["template"]["spec"]["containers"][0]
    assert (container["image"], container["env"]) == ("nginx:1.29", [{"name": "A", "value": "b"}])
    assert "note" not in found["metadata"]["annotations"]
    assert found["metadata"]["generation"] == 5
    assert kubectl("expose", "deployment", "web", "--port=80", *in_it) == "service/web exposed\n"
    row = lines(kubectl("get", "deployment", "-o", "wide", *in_it))
    assert row[0] == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]
    assert row[1][:4] == ["web", "0/3", "0", "0"]
    assert row[1][5:] == ["c", "nginx:1.29", "app=web"]


def test_refusals_read_as_on_a_real_cluster(kubectl: Kubectl, namespace: str) -> None:
    in_it = ("-n", namespace)
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {portz: 1, ports: [{port: 80}]}\n"
    assert 'strict decoding error: unknown field "spec.portz"' in kubectl.fails(
        "apply", *in_it, "-f", "-", stdin=service
    )
    no_selector = DEPLOYMENT.replace("{matchLabels: {app: web}}", "{matchLabels: {app: other}}")
    refused = kubectl.fails("apply", *in_it, "-f", "-", stdin=no_selector)
    assert 'The Deployment "web" is invalid: spec.template.metadata.labels: Invalid value: {"app":"web"}: ' in refused
    container = "{name: C_, image: i, volumeMounts: [{name: v, mountPath: /x}]}"
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{container}]}}\n"
    refused = kubectl.fails("apply", *in_it, "-f", "-", stdin=pod)
    assert "* spec.containers[0].name: Invalid value" in refused
    assert '* spec.containers[0].volumeMounts[0].name: Not found: "v"' in refused
    assert 'pods "nothing" not found' in kubectl.fails("get", "pod", "nothing", *in_it)
    assert 'namespaces "nowhere" not found' in kubectl.fails("create", "configmap", "x", "-n", "nowhere")
    assert 'the server doesn\'t have a resource type "statefulsets"' in kubectl.fails("get", "statefulsets")
    kubectl("apply", *in_it, "-f", "-", stdin=DEPLOYMENT)
    immutable = DEPLOYMENT.replace("app: web", "app: two")
    assert "field is immutable" in kubectl.fails("apply", *in_it, "-f", "-", stdin=immutable)
    forbidden = kubectl.fails("delete", "namespace", "kube-system")
    assert 'namespaces "kube-system" is forbidden: this namespace may not be deleted' in forbidden


def test_wait_and_delete(kubectl: Kubectl, namespace: str) -> None:
    in_it = ("-n", namespace)
    kubectl("run", "p", "--image=i", *in_it)
    waiting = subprocess.Popen(
        [str(KUBECTL), "wait", "--for=condition=Ready", "pod/p", "--timeout=120s", *in_it, f"--kubeconfig={kubectl.kubeconfig}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    status = '{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}'
    kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", status, *in_it)
    assert waiting.communicate(timeout=125)[0] == "pod/p condition met\n"
    assert kubectl("delete", "pod", "p", *in_it) == f'pod "p" deleted from {namespace} namespace\n'
    assert kubectl.run("wait", "--for=delete", "pod/p", "--timeout=60s", *in_it).returncode == 0
    kubectl("create", "configmap", "c", *in_it)
    kubectl("delete", "configmap", "--all", *in_it)
    assert kubectl.run("get", "configmaps", *in_it).stderr == f"No resources found in {namespace} namespace.\n"


def test_a_pod_waits_for_the_service_account_of_its_new_namespace(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "new")
    command = [str(KUBECTL), "run", "p", "--image=i", "-n", "new", f"--kubeconfig={kubectl.kubeconfig}"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    kubectl("create", "serviceaccount", "default", "-n", "new")
    assert running.communicate()[0] == "pod/p created\n"


def test_a_replaced_service_keeps_its_node_ports(kubectl: Kubectl, namespace: str) -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    spec = {"type": "NodePort", "ports": ports}
    sent = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": namespace}, "spec": spec}
    kubectl("create", "-f", "-", stdin=json.dumps(sent))
    before = kubectl.get("service", "s", "-n", namespace)["spec"]["ports"]
    kubectl("replace", "-f", "-", stdin=json.dumps(sent))
    assert kubectl.get("service", "s", "-n", namespace)["spec"]["ports"] == before
    ports[0]["nodePort"] = before[1]["nodePort"]
    kubectl("replace", "-f", "-", stdin=json.dumps(sent))
    after = [port["nodePort"] for port in kubectl.get("service", "s", "-n", namespace)["spec"]["ports"]]
    assert after[0] == before[1]["nodePort"] != after[1]


def test_get_watch_follows(kubectl: Kubectl, namespace: str) -> None:
    command = [str(KUBECTL), "get", "pods", "-w", "-n", namespace, f"--kubeconfig={kubectl.kubeconfig}"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    time.sleep(0.5)
    kubectl("run", "p", "--image=i", "-n", namespace)
    assert watching.stdout.readline().split()[:3] == ["NAME", "READY", "STATUS"]
    assert watching.stdout.readline().split()[:3] == ["p", "0/1", "Pending"]
    watching.terminate()
    watching.communicate()


def test_explain_and_api_resources(kubectl: Kubectl) -> None:
    explained = kubectl("explain", "pod.spec.containers.imagePullPolicy")
    assert "FIELD: imagePullPolicy <string>" in explained
    assert "IntOrString" in kubectl("explain", "service.spec.ports.targetPort")
    rows = {row[0]: row for row in lines(kubectl("api-resources", "--no-headers"))}
    assert rows["deployments"] == ["deployments", "deploy", "apps/v1", "true", "Deployment"]
    assert rows["nodes"] == ["nodes", "no", "v1", "false", "Node"]
    assert "apps/v1" in kubectl("api-versions").split()


def test_custom_resources(kubectl: Kubectl, namespace: str) -> None:
    in_it = ("-n", namespace)
    kubectl("apply", "-f", "-", stdin=CRD)
    kubectl("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=60s")
    widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3, free: {any: [1]}}\n"
    assert kubectl("apply", *in_it, "-f", "-", stdin=widget) == "widget.example.com/w created\n"
    spec = kubectl.get("wg", "w", *in_it)["spec"]
    assert spec == {"size": 3, "free": {"any": [1]}, "replicas": 2, "color": "red"}
    table = lines(kubectl("get", "widgets", *in_it))
    assert (table[0], table[1]) == (["NAME", "SIZE"], ["w", "3"])
    refused = kubectl.fails("apply", *in_it, "-f", "-", stdin=widget.replace("size: 3", "size: 0, color: green"))
    assert "* spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1" in refused
    assert '* spec.color: Unsupported value: "green": supported values: "red", "blue"' in refused
    assert 'unknown field "spec.zork"' in kubectl.fails(
        "apply", *in_it, "-f", "-", stdin=widget.replace("size: 3", "size: 3, zork: 1")
    )
    kubectl("scale", "widget", "w", "--replicas=5", *in_it)
    kubectl(
        "patch",
        "widget",
        "w",
        "--subresource=status",
        "--type=merge",
        "-p",
        '{"status":{"x":1},"spec":{"size":9}}',
        *in_it,
    )
    found = yaml.safe_load(kubectl("get", "widgets.v1beta1.example.com", "w", "-o", "yaml", *in_it))
    assert (found["apiVersion"], found["spec"]["replicas"], found["spec"]["size"]) == ("example.com/v1beta1", 5, 3)
    assert (found["status"], found["metadata"]["generation"]) == ({"x": 1}, 2)
    assert "How big." in kubectl("explain", "widget.spec.size")
    bad = CRD.replace("minimum: 1", "pattern: '('").replace("widgets", "gadgets").replace("Widget", "Gadget")
    assert "must be a valid regular expression" in kubectl.fails("apply", "-f", "-", stdin=bad)
    kubectl("delete", "crd", "widgets.example.com")
    assert "could not find the requested resource" in kubectl.fails("get", "widgets", *in_it)


def test_everything_survives_a_restart(server: ServerProcess, kubectl: Kubectl, namespace: str) -> None:
    kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", namespace)
    before = kubectl.get("configmap", "kept", "-n", namespace)
    assert server.end() == 0
    server.start()
    assert kubectl.get("configmap", "kept", "-n", namespace) == before
    kubectl("create", "configmap", "more", "-n", namespace)
    after = kubectl.get("configmap", "more", "-n", namespace)
    assert int(after["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])
