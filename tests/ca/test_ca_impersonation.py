"""Which identities a node proxy may have: those that run on its own node, and no others."""

import pytest

from tulle.istiod.ca.callers import Caller, NotAuthenticated, read_review
from tulle.istiod.ca.impersonation import NotAllowed, PodIndex, may_impersonate
from tulle.istiod.ca.limiter import RateLimiter
from tulle.kube.informer import Change
from tulle.kube.objects import ObjectMeta, Pod, PodSpec, PodStatus
from tulle.security.identity import Identity

ZTUNNEL = Identity("cluster.local", "istio-system", "ztunnel")
CART = Identity("cluster.local", "shop", "cart")


def pod(namespace: str, name: str, account: str, node: str, *, phase: str = "Running") -> Change[Pod]:
    made = Pod(
        metadata=ObjectMeta(namespace=namespace, name=name, uid=f"uid-{name}"),
        spec=PodSpec(service_account_name=account, node_name=node),
        status=PodStatus(phase=phase),
    )
    return Change((namespace, name), None, made)


@pytest.fixture
def pods() -> PodIndex:
    index = PodIndex()
    for change in (
        pod("istio-system", "ztunnel-1", "ztunnel", "n1"),
        pod("istio-system", "ztunnel-2", "ztunnel", "n2"),
        pod("istio-system", "other", "other", "n1"),
        pod("shop", "cart-1", "cart", "n1"),
        pod("shop", "done", "batch", "n1", phase="Succeeded"),
    ):
        index.changed(change)
    return index


def caller(**changes: str) -> Caller:
    given = {"pod_name": "ztunnel-1", "pod_uid": "uid-ztunnel-1", "node": "n1", **changes}
    return Caller(ZTUNNEL, **given)


def test_a_workload_of_the_node(pods: PodIndex) -> None:
    may_impersonate(caller(), CART, pods)
    may_impersonate(caller(node=""), CART, pods)


@pytest.mark.parametrize(
    ("asks", "wanted", "said"),
    [
        (Caller(CART, "cart-1", "uid-cart-1"), ZTUNNEL, "no node proxy account"),
        (Caller(Identity("cluster.local", "shop", "ztunnel"), "x", "y"), CART, "no node proxy account"),
        (caller(pod_name="ztunnel-2", pod_uid="uid-ztunnel-2", node="n2"), CART, "no pod of"),
        (caller(), Identity("cluster.local", "shop", "batch"), "no pod of"),
        (caller(), Identity("cluster.local", "other", "cart"), "no pod of"),
        (caller(), Identity("evil", "shop", "cart"), "trust domain"),
        (caller(pod_uid="uid-of-an-earlier-one"), CART, "does not run"),
        (caller(pod_name="never-was"), CART, "does not run"),
        (caller(pod_name="other", pod_uid="uid-other"), CART, "runs as"),
        (caller(pod_name="", pod_uid=""), CART, "not bound to a pod"),
        (caller(node="n2"), CART, "bound to node"),
    ],
)
def test_refused(pods: PodIndex, asks: Caller, wanted: Identity, said: str) -> None:
    with pytest.raises(NotAllowed, match=said):
        may_impersonate(asks, wanted, pods)


def test_the_right_ends_with_the_last_pod(pods: PodIndex) -> None:
    pods.changed(pod("shop", "cart-2", "cart", "n1"))
    pods.changed(pod("shop", "cart-1", "cart", "n1", phase="Failed"))
    may_impersonate(caller(), CART, pods)
    pods.changed(Change(("shop", "cart-2"), pod("shop", "cart-2", "cart", "n1").new, None))
    with pytest.raises(NotAllowed):
        may_impersonate(caller(), CART, pods)


def review(**changes: object) -> dict[str, object]:
    extra = {"pod-name": ["p"], "pod-uid": ["u"], "node-name": ["n"]}
    user = {
        "username": "system:serviceaccount:shop:cart",
        "extra": {f"authentication.kubernetes.io/{key}": value for key, value in extra.items()},
    }
    return {"authenticated": True, "audiences": ["istio-ca"], "user": user, **changes}


def test_a_review_names_account_pod_and_node() -> None:
    assert read_review(review(), "cluster.local") == Caller(CART, "p", "u", "n")


@pytest.mark.parametrize(
    "status",
    [
        {},
        review(authenticated=False),
        review(audiences=[]),
        review(audiences=["https://kubernetes.default.svc"]),
        review(user={"username": "admin"}),
        review(user={"username": "system:serviceaccount:a"}),
        review(user={"username": "system:serviceaccount:a:b:c"}),
    ],
)
def test_a_review_that_proves_nothing(status: dict[str, object]) -> None:
    with pytest.raises(NotAuthenticated):
        read_review(status, "cluster.local")


def test_a_caller_that_asks_too_often_waits_and_others_do_not() -> None:
    now = [0.0]
    limiter = RateLimiter(rate=2.0, burst=3, clock=lambda: now[0], keys=2)
    assert [limiter.take("a") for _ in range(4)] == [True, True, True, False]
    assert limiter.take("b")
    now[0] = 0.5
    assert limiter.take("a")
    assert not limiter.take("a")
    now[0] = 100.0
    assert [limiter.take("a") for _ in range(4)] == [True, True, True, False]
