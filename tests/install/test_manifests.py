"""The manifests: valid by Kubernetes' own schemas, and enough for `kubectl apply -f -` alone."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from tests.support.api_server import empty_api_server
from tulle import manifests
from tulle.cli import install
from tulle.cli.main import app
from tulle.cluster import heap
from tulle.kube.client import Client
from tulle.kube.resources import CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS

KUBECTL = str(Path(sys.executable).with_name("kubectl"))
PROFILES = sorted(manifests.PROFILES)


def generated(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["manifest", "generate", *arguments])
    assert result.exit_code == 0, result.output
    return list(yaml.load_all(result.output, Loader=yaml.CSafeLoader))


def dumped(documents: list[dict[str, Any]]) -> str:
    text: str = yaml.dump_all(documents, Dumper=yaml.CSafeDumper)
    return text


@pytest.mark.parametrize("profile", PROFILES)
def test_every_object_is_valid_by_the_strict_schema(profile: str) -> None:
    for document in generated("--profile", profile):
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_generated_is_what_is_installed(profile: str) -> None:
    found = generated("--profile", profile)
    assert found == list(install.documents(manifests.Values(profile=profile)))
    (config,) = (document for document in found if document["kind"] == "ConfigMap")
    settings = yaml.safe_load(config["data"]["mesh"])
    assert settings["tulle"] == manifests.PROFILES[profile]


def test_choices_reach_every_object() -> None:
    found = generated(
        "--image", "example.com/mesh:1", "-i", "mesh", "--trust-domain", "example.org", "--no-dns-capture"
    )
    images = {
        container["image"]
        for document in found
        if document["kind"] in ("Deployment", "DaemonSet")
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"example.com/mesh:1"}
    (agent,) = (document for document in found if document["metadata"]["name"] == "istio-cni-node")
    variables = agent["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "AMBIENT_DNS_CAPTURE", "value": "false"} in variables
    assert {document["metadata"].get("namespace") for document in found} <= {"mesh", None}
    (config,) = (document for document in found if document["kind"] == "ConfigMap")
    assert yaml.safe_load(config["data"]["mesh"])["trustDomain"] == "example.org"


def test_no_object_is_named_twice() -> None:
    keys = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in generated()]
    assert len(set(keys)) == len(keys)


def test_an_unknown_profile() -> None:
    result = CliRunner().invoke(app, ["manifest", "generate", "--profile", "ambient"])
    assert result.exit_code == 1
    assert "profile 'ambient' is not known; accepted are istio, lesson" in result.output


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API server with nothing in it."""
    with empty_api_server(tmp_path_factory.mktemp("tk-install")) as made:
        yield made


def kubectl(kubeconfig: str, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [KUBECTL, "--kubeconfig", kubeconfig, *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kubectl_apply_alone_is_enough(kubeconfig: str) -> None:
    text = dumped(generated())
    first = kubectl(kubeconfig, "apply", "-f", "-", text=text).splitlines()
    assert len(first) == len(generated())
    assert all(line.endswith(" created") for line in first), first
    again = kubectl(kubeconfig, "apply", "-f", "-", text=text).splitlines()
    assert all(line.endswith(" unchanged") for line in again), again


def test_the_server_itself_finds_no_unknown_field(kubeconfig: str) -> None:
    """Strict validation by the API server, custom resources included, which no schema file of Kubernetes knows."""
    text = dumped(generated())
    options = ("--server-side", "--validate=strict", "--force-conflicts", "--dry-run=server")
    found = kubectl(kubeconfig, "apply", *options, "-f", "-", text=text).splitlines()
    assert len(found) == len(generated())
    assert all("serverside-applied" in line for line in found), found


def test_a_field_that_does_not_exist_is_refused_by_the_server(kubeconfig: str) -> None:
    (deployment,) = (one for one in generated() if one["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    options = ("--server-side", "--validate=strict", "--force-conflicts", "--dry-run=server")
    command = [KUBECTL, "--kubeconfig", kubeconfig, "apply", *options, "-f", "-"]
    done = subprocess.run(command, input=yaml.safe_dump(deployment), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "imagePullPolice" in done.stderr


async def test_definitions_of_others_are_left_alone(kubeconfig: str) -> None:
    """kubectl applied them above, so to an installation they are somebody else's."""
    async with Client.from_kubeconfig(kubeconfig) as client:
        foreign = await install._foreign_definitions(client)
        assert foreign == tuple(sorted(one["metadata"]["name"] for one in manifests.crds()))
        name = foreign[0]
        (own,) = (one for one in manifests.crds() if one["metadata"]["name"] == name)
        await client.patch(
            CUSTOM_RESOURCE_DEFINITIONS, name, own, kind="apply", field_manager=install.FIELD_MANAGER, force=True
        )
        assert await install._foreign_definitions(client) == foreign[1:]
    await asyncio.sleep(0.05)


async def test_uninstall_takes_back_what_there_is(kubeconfig: str) -> None:
    async with Client.from_kubeconfig(kubeconfig) as client:
        body = {"metadata": {"name": "istio-ca-root-cert", "namespace": "default"}, "data": {}}
        await client.create(CONFIG_MAPS, body)
    await asyncio.sleep(0.05)
    result = await asyncio.to_thread(CliRunner().invoke, app, ["uninstall", "--crds", "--kubeconfig", kubeconfig])
    assert result.exit_code == 0, result.output
    for line in (
        "deployment/istiod deleted",
        "configmap/istio-ca-root-cert in namespace default deleted",
        "clusterrole/istiod deleted",
    ):
        assert line in result.output.splitlines()
    left = kubectl(kubeconfig, "get", "crd,clusterrole,clusterrolebinding,validatingwebhookconfiguration", "-o", "name")
    assert "istiod" not in left
    assert "authorizationpolicies" not in left
    assert "workloadentries" in left, "what kubectl applied is not ours to remove"
    again = await asyncio.to_thread(CliRunner().invoke, app, ["uninstall", "--kubeconfig", kubeconfig])
    assert "Nothing to remove" in again.output or "namespace/istio-system" in again.output


def test_the_image_is_made_of_the_lock_file_and_what_the_parts_need() -> None:
    root = Path(__file__).parents[2]
    dockerfile = (root / "Dockerfile").read_text()
    (version,) = re.findall(r"^UV_VERSION := (\S+)$", (root / "Makefile").read_text(), re.M)
    assert f"uv=={version}" in dockerfile
    runtime = dockerfile.split("FROM ")[-1]
    assert all(package in runtime for package in ("nftables", "iproute2", "python3"))
    assert all(f"{name}={value}" in runtime for name, value in heap.ENVIRONMENT.items())
    admitted = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.M) for name in line.split()[:-1]}
    assert copied == admitted
    assert all((root / name).exists() for name in copied)
