"""Against a real API server: its Secrets keep the authority, its tokens prove callers, its pods bound what they may have."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tulle.istiod.ca.callers import Caller, NotAuthenticated, TokenReviewer
from tulle.istiod.ca.config_map_publisher import ROOT, ConfigMapPublisher
from tulle.istiod.ca.impersonation import NotAllowed, PodIndex, may_impersonate
from tulle.istiod.ca.store import SELF_SIGNED, load_authority
from tulle.kube import AlreadyExists, Client, Informer, NotFound
from tulle.kube.resources import CONFIG_MAPS, NAMESPACES, NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from tulle.security.identity import Identity

ZTUNNEL = Identity("cluster.local", "istio-system", "ztunnel")


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    state = tmp_path_factory.mktemp("api")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tulle.cluster.apiserver", "--state-dir", str(state), "--port", str(port)]
    with (state / "log").open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        assert process.stdout is not None
        assert any(line.startswith(b"ready:") for line in process.stdout), (state / "log").read_text()
        yield state / "kubeconfig"
        process.terminate()


@pytest.fixture
async def client(kubeconfig: Path) -> AsyncIterator[Client]:
    async with Client.from_kubeconfig(str(kubeconfig)) as made:
        await ensure_namespace(made, "istio-system")
        with suppress(AlreadyExists):
            await made.create(NODES, {"metadata": {"name": "n1"}})
        yield made
    # A watch that was cut off ends its TLS connection in later turns of the loop.
    await asyncio.sleep(0.1)


async def ensure_namespace(client: Client, name: str) -> None:
    try:
        await client.get(NAMESPACES, name)
    except NotFound:
        await client.create(NAMESPACES, {"metadata": {"name": name}})


async def start_pod(client: Client, name: str, namespace: str, account: str) -> Any:
    try:
        await client.get(SERVICE_ACCOUNTS, account, namespace)
    except NotFound:
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": account}}, namespace)
    spec = {"serviceAccountName": account, "nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}
    return await client.create(PODS, {"metadata": {"name": name}, "spec": spec}, namespace)


async def token(client: Client, account: str, namespace: str, pod: Any, audience: str = "istio-ca") -> str:
    bound = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound},
    }
    answer = await client.post(SERVICE_ACCOUNTS, account, "token", request, namespace)
    return str(answer["status"]["token"])


async def test_the_authority_is_kept_in_a_secret(client: Client) -> None:
    several = await asyncio.gather(*(load_authority(client) for _ in range(4)))
    assert len({authority.root_pem for authority in several}) == 1
    secret = await client.get(SECRETS, SELF_SIGNED, "istio-system")
    assert secret.type == "istio.io/ca-root"
    assert set(secret.data) == {"ca-cert.pem", "ca-key.pem"}
    assert (await load_authority(client)).root_pem == several[0].root_pem


async def test_a_token_proves_account_pod_and_node(client: Client) -> None:
    pod = await start_pod(client, "ztunnel-1", "istio-system", "ztunnel")
    reviewer = TokenReviewer(client, "cluster.local")
    proof = await token(client, "ztunnel", "istio-system", pod)
    caller = await reviewer.review(proof)
    assert caller == Caller(ZTUNNEL, "ztunnel-1", pod.metadata.uid, "n1")
    with pytest.raises(NotAuthenticated):
        await reviewer.review(await token(client, "ztunnel", "istio-system", pod, "https://elsewhere"))
    with pytest.raises(NotAuthenticated):
        await reviewer.review(proof[:-6] + "AAAAAA")


async def test_a_node_proxy_may_have_what_runs_beside_it(client: Client) -> None:
    pods = Informer(client, PODS)
    index = PodIndex()
    pods.on_change(index.changed)
    following = asyncio.create_task(pods.run())
    pod = await start_pod(client, "ztunnel-2", "istio-system", "ztunnel")
    await ensure_namespace(client, "shop")
    await start_pod(client, "cart-1", "shop", "cart")
    caller = await TokenReviewer(client, "cluster.local").review(await token(client, "ztunnel", "istio-system", pod))
    async with asyncio.timeout(60):
        while ("shop", "cart-1") not in index.snapshot():
            await asyncio.sleep(0.01)
    may_impersonate(caller, Identity("cluster.local", "shop", "cart"), index)
    with pytest.raises(NotAllowed):
        may_impersonate(caller, Identity("cluster.local", "shop", "default"), index)
    following.cancel()
    await asyncio.wait((following,))


async def test_the_root_reaches_every_namespace(client: Client) -> None:
    namespaces = Informer(client, NAMESPACES)
    publisher = ConfigMapPublisher(client, namespaces, ROOT, "the root")
    tasks = [asyncio.create_task(work) for work in (namespaces.run(), publisher.config_maps.run(), publisher.run())]
    await ensure_namespace(client, "shop")
    async with asyncio.timeout(60):
        while ("shop", ROOT[0]) not in publisher.config_maps.store or len(publisher.config_maps.store) < len(
            namespaces.store
        ):
            await asyncio.sleep(0.01)
    found = await client.get(CONFIG_MAPS, ROOT[0], "shop")
    assert found.data == {"root-cert.pem": "the root"}
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
