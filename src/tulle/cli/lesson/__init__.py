"""The lesson on ambient security, as data: each command a user types, what must come of it in each profile, and why.

The manifests beside this module are the lesson's own. `STEPS` is in the order of the lesson; the guided lab, the demo and the end-to-end
tests all run the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CURL = "curl -I http://helloworld.hello.svc.cluster.local:5000/hello"
FROM_TEST = f"kubectl exec -n test -it curl -- {CURL}"
FROM_WEB = f"kubectl exec -n web -it nginx -- {CURL}"


@dataclass(frozen=True)
class Outcome:
    """What a command must come to: its exit code, and a text that its output contains."""

    code: int = 0
    contains: str = ""


RESET = Outcome(56, "Connection reset by peer")
OK = Outcome(0, "HTTP/1.1 200 OK")
UNAVAILABLE = Outcome(0, "HTTP/1.1 503 Service Unavailable")
FORBIDDEN = Outcome(0, "HTTP/1.1 403 Forbidden")
_BOTH = ("lesson", "istio")


@dataclass(frozen=True)
class Step:
    """One command. `why` explains its outcome; `outcome` is by profile, and a profile that is not in it skips the step.

    `settles` says that the outcome is the one after configuration has reached the proxies, which takes a moment.
    """

    command: str
    why: str
    outcome: Mapping[str, Outcome] = field(default_factory=lambda: dict.fromkeys(_BOTH, Outcome()))
    settles: bool = False


def _both(outcome: Outcome) -> dict[str, Outcome]:
    return dict.fromkeys(_BOTH, outcome)


def _says(text: str) -> dict[str, Outcome]:
    return _both(Outcome(0, text))


@dataclass(frozen=True)
class Part:
    """A heading of the lesson and its steps."""

    title: str
    steps: tuple[Step, ...]


PARTS: tuple[Part, ...] = (
    Part(
        "The control plane, and a client outside the mesh",
        (
            Step(
                "kubectl get pods -n istio-system",
                "istiod decides and signs, istio-cni-node captures pods, ztunnel carries their traffic.",
                _says("ztunnel"),
            ),
            Step("kubectl create namespace test", "A namespace for the client; it has no label yet.", _says("created")),
            Step(
                "kubectl run curl --image=curlimages/curl -n test --restart=Never --command -- sleep infinity",
                "The client that every request of the lesson comes from.",
                _says("pod/curl created"),
            ),
            Step("kubectl wait -n test pod/curl --for=condition=Ready --timeout=60s", "", _says("condition met")),
        ),
    ),
    Part(
        "A server inside the mesh",
        (
            Step("kubectl create namespace hello", "", _says("created")),
            Step(
                "kubectl label namespace hello istio.io/dataplane-mode=ambient",
                "From now on every pod of hello is captured: its traffic passes the node's ztunnel.",
                _says("labeled"),
            ),
            Step("kubectl apply -f helloworld.yaml -n hello", "", _says("deployment.apps/helloworld-v2 created")),
            Step(
                "kubectl wait -n hello deployment/helloworld-v1 deployment/helloworld-v2"
                " --for=condition=Available --timeout=60s",
                "",
                _says("deployment.apps/helloworld-v2 condition met"),
            ),
            Step("kubectl get pods -n hello", "", _says("helloworld-v1")),
            Step("kubectl get svc -n hello", "", _says("5000/TCP")),
        ),
    ),
    Part(
        "STRICT mTLS, everywhere",
        (
            Step(
                "kubectl apply -f global-pa.yaml",
                "In the root namespace and without a selector: no workload of the mesh accepts plaintext any more.",
                _says("peerauthentication.security.istio.io/default created"),
            ),
            Step("kubectl get peerauthentications -A", "", _says("default")),
            Step(
                FROM_TEST,
                "The client is not in the mesh, so it speaks plaintext and has no identity; the server's ztunnel resets it.",
                _both(RESET),
                settles=True,
            ),
            Step(
                "kubectl label namespace test istio.io/dataplane-mode=ambient",
                "The running pod is captured where it stands: no restart.",
                _says("labeled"),
            ),
            Step(
                FROM_TEST,
                "The client's ztunnel now opens mTLS in the client's name: spiffe://cluster.local/ns/test/sa/default.",
                _both(OK),
                settles=True,
            ),
        ),
    ),
    Part(
        "A policy with HTTP rules needs a waypoint",
        (
            Step(
                "kubectl apply -f hw.yaml",
                "Its rule names an HTTP method. ztunnel sees connections, not requests, so the rule is dropped and nothing is allowed.",
                _says("hello-world-authz created"),
            ),
            Step(
                FROM_TEST,
                "Denied at the server's ztunnel. Profile lesson says so in HTTP; upstream's client sees a reset.",
                {"lesson": UNAVAILABLE, "istio": RESET},
                settles=True,
            ),
            Step("istioctl waypoint apply -n hello", "An HTTP proxy with an identity of its own.", _says("applied")),
            Step(
                "kubectl label namespace hello istio.io/waypoint=enabled",
                "Profile lesson takes this label for istio.io/use-waypoint=waypoint; upstream ignores it.",
                _says("labeled"),
            ),
            Step(
                "kubectl label namespace hello istio.io/use-waypoint=waypoint",
                "The label that upstream knows.",
                {"istio": Outcome(0, "labeled")},
            ),
            Step(
                "kubectl wait -n hello gateway/waypoint --for=condition=Programmed --timeout=60s",
                "",
                _says("condition met"),
            ),
            Step("kubectl get pods -n hello", "", _says("waypoint")),
            Step(
                FROM_TEST,
                "The waypoint is asked, has no policy of its own to apply, and is itself refused by the server's ztunnel: "
                "hw.yaml allows by namespace and so stays there.",
                _both(UNAVAILABLE),
                settles=True,
            ),
        ),
    ),
    Part(
        "A policy by identity",
        (
            Step(
                "kubectl apply -f hw-v2.yaml",
                "Every source is a principal. Profile lesson lifts such a policy to the waypoint; upstream leaves it at ztunnel.",
                _says("hello-world-authz-v2 created"),
            ),
            Step(
                FROM_TEST,
                "The waypoint knows the client's identity and the method, and lets the request pass.",
                {"lesson": OK, "istio": UNAVAILABLE},
                settles=True,
            ),
            Step(
                "kubectl delete -f hw.yaml -f hw-v2.yaml && kubectl apply -f hw-v2-target.yaml",
                "Upstream's form of the same: the policy names the Service, and HEAD besides GET.",
                {"istio": Outcome(0, "hello-world-authz-v2 created")},
            ),
            Step(FROM_TEST, "Enforced at the waypoint, on the client's own identity.", {"istio": OK}, settles=True),
        ),
    ),
    Part(
        "Everybody else",
        (
            Step("kubectl create namespace web", "", _says("created")),
            Step("kubectl label namespace web istio.io/dataplane-mode=ambient", "", _says("labeled")),
            Step(
                "kubectl run nginx --image=nginx -n web --restart=Never --command -- sleep infinity",
                "",
                _says("pod/nginx created"),
            ),
            Step("kubectl wait -n web pod/nginx --for=condition=Ready --timeout=60s", "", _says("condition met")),
            Step(
                "kubectl exec -n web -it nginx -- sh -c 'apt-get update -qq && apt-get install -y -qq curl'",
                "A Debian-based image, as the lesson uses it.",
            ),
            Step(
                FROM_WEB,
                "spiffe://cluster.local/ns/web/sa/default is in the mesh, but no rule names it.",
                _both(FORBIDDEN),
                settles=True,
            ),
            Step(
                "kubectl delete authorizationpolicy -n hello --all",
                "Without any ALLOW policy, everyone in the mesh may connect.",
                _says("deleted"),
            ),
            Step(FROM_WEB, "", _both(OK), settles=True),
            Step(FROM_TEST, "", _both(OK), settles=True),
        ),
    ),
)
