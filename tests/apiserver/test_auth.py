"""Who is let in, and what they may do."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography import x509
from yarl import URL

from tulle.cluster import pki as pki_module
from tulle.cluster.apiserver.auth.tokens import ISSUER, TokenError, TokenSigner

from .conftest import Api, client_tls


def test_the_pki_is_made_once_and_made_again_where_needed(tmp_path: Path) -> None:
    pki = pki_module.create(tmp_path, extra_addresses=["10.1.2.3"])
    before = {path.name: path.read_bytes() for path in pki.directory.iterdir()}
    pki_module.create(tmp_path, extra_addresses=["10.1.2.3"])
    assert {path.name: path.read_bytes() for path in pki.directory.iterdir()} == before
    pki_module.create(tmp_path, extra_addresses=["10.1.2.3", "10.9.9.9", "api.example.com"])
    after = {path.name: path.read_bytes() for path in pki.directory.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"apiserver.crt", "apiserver.key"}
    names = x509.load_pem_x509_certificate(after["apiserver.crt"]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert {"localhost", "kubernetes.default.svc.cluster.local", "api.example.com"} <= set(
        names.value.get_values_for_type(x509.DNSName)
    )
    assert {"127.0.0.1", "10.96.0.1", "10.9.9.9"} <= {str(a) for a in names.value.get_values_for_type(x509.IPAddress)}
    for path in pki.directory.glob("*.key"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_node_gets_a_certificate_and_a_kubeconfig(tmp_path: Path) -> None:
    pki_module.create(tmp_path)
    path = pki_module.create_node(tmp_path, "one", ["169.254.77.2"], "https://169.254.77.1:6443")
    config = yaml.safe_load(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://169.254.77.1:6443"
    data = base64.b64decode(config["users"][0]["user"]["client-certificate-data"])
    subject = x509.load_pem_x509_certificate(data).subject.rfc4514_string()
    assert "CN=system:node:one" in subject
    assert "O=system:nodes" in subject


def test_tokens_are_refused_when_changed(tmp_path: Path) -> None:
    signer = TokenSigner(pki_module.create(tmp_path).service_account_key)
    token = signer.sign({"iss": ISSUER, "sub": "x"})
    assert signer.verify(token)["sub"] == "x"
    header, payload, signature = token.split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
    for bad in (
        f"{none}.{payload}.{signature}",
        f"{header}.{payload}x.{signature}",
        f"{header}.{payload}.",
        "a.b",
        "a.b.c",
        "…",
    ):
        with pytest.raises(TokenError):
            signer.verify(bad)
    other = TokenSigner(pki_module.create(tmp_path / "other").service_account_key)
    with pytest.raises(TokenError, match="signature"):
        other.verify(token)


async def token_for(api: Api, namespace: str, **spec: Any) -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    return str((await api.ok("POST", path, {"spec": spec}))["status"]["token"])


async def with_token(api: Api, token: str, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    connector = aiohttp.TCPConnector(ssl=client_tls(api.pki, ""))
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.request(method, api.url + path, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def test_service_account_tokens(api: Api) -> None:
    namespace = await api.namespace("n")
    token = await token_for(api, "n", expirationSeconds=600)
    status, refused = await with_token(api, token, f"{namespace}/pods")
    assert status == 403
    assert refused["message"] == (
        'pods is forbidden: User "system:serviceaccount:n:default" cannot list resource "pods" '
        'in API group "" in the namespace "n"'
    )
    role = {"metadata": {"name": "r"}, "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]}
    await api.ok("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/n/roles", role)
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "n"}
    binding = {"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [subject]}
    await api.ok("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings", binding)
    assert (await with_token(api, token, f"{namespace}/pods"))[0] == 200
    assert (await with_token(api, token, "/api/v1/pods"))[0] == 403
    await api.ok("DELETE", "/apis/rbac.authorization.k8s.io/v1/namespaces/n/rolebindings/b")
    assert (await with_token(api, token, f"{namespace}/pods"))[0] == 403
    await api.ok("DELETE", f"{namespace}/serviceaccounts/default")
    assert (await with_token(api, token, f"{namespace}/pods"))[0] == 401


async def test_tokens_bound_to_a_pod_die_with_it(api: Api) -> None:
    namespace = await api.namespace("n")
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    made = await api.ok("POST", f"{namespace}/pods", pod)
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]}
    token = await token_for(api, "n", boundObjectRef=bound, audiences=[ISSUER, "istio-ca"])
    review = {"spec": {"token": token, "audiences": ["istio-ca"]}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    status = (await api.ok("POST", path, review))["status"]
    assert status["authenticated"]
    assert status["audiences"] == ["istio-ca"]
    assert status["user"]["username"] == "system:serviceaccount:n:default"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    other = await api.ok("POST", path, {"spec": {"token": token, "audiences": ["elsewhere"]}})
    assert not other["status"].get("authenticated")
    assert "audience" in other["status"]["error"]
    await api.ok("DELETE", f"{namespace}/pods/p")
    assert not (await api.ok("POST", path, review))["status"].get("authenticated")
    assert (await with_token(api, token, "/api"))[0] == 401
    assert (await api.call("POST", f"{namespace}/serviceaccounts/default/token", {"spec": {"expirationSeconds": 5}}))[
        0
    ] == 422


async def test_tokens_bound_to_a_node_die_with_it(api: Api) -> None:
    await api.namespace("n")
    made = await api.ok("POST", "/api/v1/nodes", {"metadata": {"name": "one"}})
    bound = {"kind": "Node", "apiVersion": "v1", "name": "one", "uid": made["metadata"]["uid"]}
    token = await token_for(api, "n", boundObjectRef=bound)
    assert (await with_token(api, token, "/api"))[0] == 200
    await api.ok("DELETE", "/api/v1/nodes/one")
    assert (await with_token(api, token, "/api"))[0] == 401


async def test_expired_and_foreign_tokens_are_unauthorized(api: Api) -> None:
    namespace = await api.namespace("n")
    account = await api.ok("GET", f"{namespace}/serviceaccounts/default")
    bound = {"namespace": "n", "serviceaccount": {"name": "default", "uid": account["metadata"]["uid"]}}
    claims = {"iss": ISSUER, "aud": [ISSUER], "exp": time.time() - 1, "kubernetes.io": bound}
    for changed in (
        {},
        {"exp": time.time() + 60, "iss": "other"},
        {"exp": time.time() + 60, "aud": ["x"]},
        {"exp": "soon"},
    ):
        token = api.server.signer.sign({**claims, **changed})
        assert (await with_token(api, token, "/api"))[0] == 401
    good = api.server.signer.sign({**claims, "exp": time.time() + 60})
    assert (await with_token(api, good, "/api"))[0] == 200


async def test_nobody_grants_what_he_does_not_hold(api: Api) -> None:
    namespace = await api.namespace("n")
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/n"
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "n"}
    binding = {"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [subject]}
    await api.ok("POST", f"{rbac}/rolebindings", binding)
    token = await token_for(api, "n")
    pods = {"metadata": {"name": "ok"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}
    assert (await with_token(api, token, f"{rbac}/roles", "POST", pods))[0] == 201
    nodes = {"metadata": {"name": "bad"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}]}
    status, refused = await with_token(api, token, f"{rbac}/roles", "POST", nodes)
    assert status == 403
    assert "attempting to grant RBAC permissions not currently held" in refused["message"]
    taking = {
        "metadata": {"name": "c"},
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [subject],
    }
    assert (await with_token(api, token, f"{rbac}/rolebindings", "POST", taking))[0] == 403
    assert (await with_token(api, token, f"{namespace}/secrets"))[0] == 200


async def test_nobody_binds_a_role_before_it_is_there(api: Api) -> None:
    await api.namespace("n")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    create = {"verbs": ["create"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["rolebindings"]}
    token = await allow(api, "n", create)
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "n"}
    reference = {"kind": "ClusterRole", "name": "later"}
    early = {"metadata": {"name": "early"}, "roleRef": reference, "subjects": [subject]}
    status, refused = await with_token(api, token, f"{rbac}/namespaces/n/rolebindings", "POST", early)
    assert status == 404
    assert refused["message"] == 'clusterroles.rbac.authorization.k8s.io "later" not found'
    await api.ok("POST", f"{rbac}/namespaces/n/rolebindings", early)


async def test_a_label_that_has_a_role_gathered_grants_its_rules(api: Api) -> None:
    await api.namespace("n")
    token = await allow(
        api,
        "n",
        {"verbs": ["get", "update"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"]},
        cluster=True,
    )
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    role = await api.ok("GET", f"{path}/system:kube-controller-manager")
    role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] = "true"
    status, refused = await with_token(api, token, f"{path}/{role['metadata']['name']}", "PUT", role)
    assert (status, "not currently held" in refused["message"]) == (403, True)
    held = await api.ok("GET", f"{path}/held")
    held["metadata"]["labels"] = {"a": "b"}
    assert (await with_token(api, token, f"{path}/held", "PUT", held))[0] == 200


async def test_aggregated_roles_gather_by_label(api: Api) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    await api.ok(
        "POST",
        rbac,
        {"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "y"}}]}},
    )
    part = {
        "metadata": {"name": "part", "labels": {"x": "y"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["g"], "resources": ["r"]}],
    }
    await api.ok("POST", rbac, part)
    user = {"kind": "User", "name": "bob"}
    binding = {"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "sum"}, "subjects": [user]}
    await api.ok("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    review = {"spec": {"user": "bob", "resourceAttributes": {"verb": "get", "group": "g", "resource": "r"}}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert (await api.ok("POST", path, review))["status"]["allowed"] is True
    await api.ok("DELETE", f"{rbac}/part")
    assert (await api.ok("POST", path, review))["status"]["allowed"] is False


async def test_impersonation_needs_its_permission(api: Api) -> None:
    await api.namespace("n")
    status, answer = await api.call("GET", "/api/v1/namespaces/n/pods", headers={"Impersonate-User": "bob"})
    assert status == 403
    assert 'User "bob" cannot list' in answer["message"]
    token = await token_for(api, "n")
    connector = aiohttp.TCPConnector(ssl=client_tls(api.pki, ""))
    headers = {
        "Authorization": f"Bearer {token}",
        "Impersonate-User": "kubernetes-admin",
        "Impersonate-Group": "system:masters",
    }
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(api.url + "/api/v1/pods") as refused,
    ):
        assert refused.status == 403


async def test_the_serving_certificate_is_no_client_certificate(api: Api) -> None:
    connector = aiohttp.TCPConnector(ssl=client_tls(api.pki, "apiserver"))
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(api.url + "/api/v1/pods") as answer:
                await answer.read()


async def test_keys_for_others_to_check_tokens_with(api: Api) -> None:
    keys = await api.ok("GET", "/openid/v1/jwks")
    assert keys["keys"][0]["alg"] == "ES256"
    document = await api.ok("GET", "/.well-known/openid-configuration")
    assert document["issuer"] == ISSUER


async def test_streams_and_applies_need_the_right_to_create(api: Api) -> None:
    namespace = await api.namespace("n")
    rules = [
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/exec"]},
        {"verbs": ["patch"], "apiGroups": [""], "resources": ["configmaps"]},
    ]
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/n"
    await api.ok("POST", f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "n"}
    binding = {"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [subject]}
    await api.ok("POST", f"{rbac}/rolebindings", binding)
    token = await token_for(api, "n")
    status, refused = await with_token(api, token, f"{namespace}/pods/p/exec?command=ls")
    assert status == 403
    assert 'cannot create resource "pods/exec"' in refused["message"]
    connector = aiohttp.TCPConnector(ssl=client_tls(api.pki, ""))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"}
    body = b"apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n"
    path = f"{api.url}{namespace}/configmaps/c?fieldManager=me"
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        async with session.patch(path, data=body) as answer:
            assert answer.status == 403
        await api.ok("POST", f"{namespace}/configmaps", {"metadata": {"name": "c"}})
        async with session.patch(path, data=body) as answer:
            assert (answer.status, (await answer.json())["data"]) == (200, {"a": "b"})


async def allow(api: Api, namespace: str, *rules: dict[str, Any], cluster: bool = False) -> str:
    """The token of a service account that holds these rules, in its namespace or everywhere."""
    where = "" if cluster else f"namespaces/{namespace}/"
    role, binding = ("ClusterRole", "clusterrolebindings") if cluster else ("Role", "rolebindings")
    rbac = f"/apis/rbac.authorization.k8s.io/v1/{where}"
    await api.ok("POST", f"{rbac}{role.lower()}s", {"metadata": {"name": "held"}, "rules": list(rules)})
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    bound = {"metadata": {"name": "held"}, "roleRef": {"kind": role, "name": "held"}, "subjects": [subject]}
    await api.ok("POST", f"{rbac}{binding}", bound)
    return await token_for(api, namespace)


async def test_who_rules_one_namespace_has_no_way_to_another(api: Api) -> None:
    own, other = await api.namespace("n"), await api.namespace("other")
    token = await allow(api, "n", {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
    assert (await with_token(api, token, own))[0] == 200
    assert (await with_token(api, token, other))[0] == 403
    for method, path in (("GET", f"{own}/namespaces"), ("GET", f"{own}/namespaces/other")):
        assert (await with_token(api, token, path, method))[0] == 404
    assert (await with_token(api, token, f"{own}/namespaces/other", "DELETE"))[0] == 404
    assert (await api.ok("GET", other))["status"]["phase"] == "Active"


async def test_a_right_to_one_name_is_no_right_to_create(api: Api) -> None:
    path = f"{await api.namespace('n')}/secrets"
    token = await allow(api, "n", {"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]})
    assert (await with_token(api, token, path, "POST", {"metadata": {"name": "b"}}))[0] == 403
    assert (await with_token(api, token, f"{path}/a", "POST", {"metadata": {"name": "b"}}))[0] == 405
    assert (await api.call("GET", f"{path}/b"))[0] == 404


@pytest.mark.parametrize(
    ("selector", "status"),
    [
        ("metadata.name%3Da", 200),
        ("metadata.name%3D%3Da,metadata.namespace%3Dn", 200),
        ("type%3DOpaque,metadata.name%3Da", 200),
        ("metadata.name%3Da,metadata.name%3Db", 200),
        ("metadata.name%3Db", 403),
        ("metadata.name%3Db,metadata.name%3Da", 403),
        ("metadata.name!%3Db", 403),
        ("metadata.name!%3Da", 403),
        ("metadata.name%3D", 403),
        ("metadata.namespace%3Da", 403),
        ("type%3Dmetadata.name%3Da", 403),
        ("metadata.name%3Da%26", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("query", ["?fieldSelector=", "?watch=true&timeoutSeconds=1&fieldSelector="])
async def test_a_right_to_one_name_lists_and_watches_that_one_alone(
    api: Api, selector: str, status: int, query: str
) -> None:
    path = f"{await api.namespace('n')}/secrets"
    rule = {"verbs": ["list", "watch"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}
    token = await allow(api, "n", rule)
    for name in ("a", "b"):
        await api.ok("POST", path, {"metadata": {"name": name}})
    connector = aiohttp.TCPConnector(ssl=client_tls(api.pki, ""))
    async with (
        aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {token}"}) as session,
        session.get(URL(f"{api.url}{path}{query}{selector}", encoded=True)) as answer,
    ):
        assert answer.status == status
        assert status == 403 or '"name":"b"' not in await answer.text()


async def test_a_right_to_one_name_deletes_no_collection(api: Api) -> None:
    path = f"{await api.namespace('n')}/secrets"
    token = await allow(api, "n", {"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]})
    assert (await with_token(api, token, f"{path}?fieldSelector=metadata.name%3Da", "DELETE"))[0] == 403


@pytest.mark.parametrize("foreign", ["admin.key", "ca.crt"])
def test_a_certificate_whose_key_or_issuer_is_another_is_made_again(tmp_path: Path, foreign: str) -> None:
    pki = pki_module.create(tmp_path)
    other = pki_module.create(tmp_path / "other")
    # Of a renewal that a crash cut short, or of an authority that was made again: the names alone say nothing of it.
    names = [foreign] if foreign == "admin.key" else ["ca.crt", "ca.key"]
    for name in names:
        (pki.directory / name).write_bytes((other.directory / name).read_bytes())
    pki_module.create(tmp_path)
    client_tls(pki, "admin")
    issued = x509.load_pem_x509_certificate(pki.certificate("admin").read_bytes())
    issued.verify_directly_issued_by(x509.load_pem_x509_certificate(pki.ca.read_bytes()))
