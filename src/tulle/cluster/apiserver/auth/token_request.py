"""TokenRequest: tokens for ServiceAccounts, bound to a pod, secret or node if asked for."""

from __future__ import annotations

import datetime
import time
import uuid
from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.tokens import ISSUER, TokenSigner
from tulle.cluster.apiserver.rest.objects import now as now_text
from tulle.cluster.store import Key, Store

Object = dict[str, Any]
_SHORTEST, _LONGEST, _DEFAULT = 600, 1 << 32, 3600
_BINDABLE = {("v1", "Pod"): ("pods", "pod"), ("v1", "Secret"): ("secrets", "secret"), ("v1", "Node"): ("nodes", "node")}


class TokenIssuer:
    """Issues tokens."""

    def __init__(self, store: Store, signer: TokenSigner) -> None:
        self._store = store
        self._signer = signer

    def issue(self, account: Object, request: Object) -> Object:
        """The TokenRequest with its status. Raises StatusError."""
        spec = request.setdefault("spec", {})
        spec.setdefault("audiences", [])
        if not spec["audiences"]:
            spec["audiences"] = [ISSUER]
        seconds = spec.setdefault("expirationSeconds", _DEFAULT)
        if not _SHORTEST <= seconds <= _LONGEST:
            detail = (
                "may not specify a duration less than 10 minutes"
                if seconds < _SHORTEST
                else "may not specify a duration larger than 2^32 seconds"
            )
            raise errors.invalid(
                "TokenRequest",
                "authentication.k8s.io",
                "",
                [errors.invalid_value("spec.expirationSeconds", seconds, detail)],
            )
        now = int(time.time())
        metadata = account["metadata"]
        claims: Object = {
            "aud": spec["audiences"],
            "exp": now + seconds,
            "iat": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": self._bound(account, spec.get("boundObjectRef")),
            "nbf": now,
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        expiry = datetime.datetime.fromtimestamp(now + seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        shown = {"name": metadata["name"], "namespace": metadata["namespace"], "creationTimestamp": now_text()}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": shown,
            "spec": spec,
            "status": {"token": self._signer.sign(claims), "expirationTimestamp": expiry},
        }

    def _bound(self, account: Object, reference: Object | None) -> Object:
        metadata = account["metadata"]
        claim: Object = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if not reference:
            return claim
        found = _BINDABLE.get((reference.get("apiVersion", ""), reference.get("kind", "")))
        if found is None:
            text = f"cannot bind token for serviceaccount {metadata['name']!r} to object type {reference.get('kind')}"
            raise errors.bad_request(text)
        resource, name = found
        namespace = "" if resource == "nodes" else metadata["namespace"]
        record = self._store.get(Key(resource, namespace, reference.get("name", "")))
        if record is None:
            raise errors.not_found(resource, "", reference.get("name", ""))
        target = record.decode()
        uid = target["metadata"]["uid"]
        if reference.get("uid") and reference["uid"] != uid:
            why = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise errors.conflict(resource, "", reference["name"], why)
        claim[name] = {"name": reference["name"], "uid": uid}
        if resource == "pods":
            self._check_pod(account, target)
            self._add_node(claim, target)
        return claim

    @staticmethod
    def _check_pod(account: Object, pod: Object) -> None:
        name = account["metadata"]["name"]
        if pod["spec"].get("serviceAccountName") != name:
            text = f"cannot bind token for serviceaccount {name!r} to pod running with different serviceaccount name."
            raise errors.bad_request(text)

    def _add_node(self, claim: Object, pod: Object) -> None:
        node = pod["spec"].get("nodeName")
        record = self._store.get(Key("nodes", "", node)) if node else None
        if record is not None:
            claim["node"] = {"name": node, "uid": record.decode()["metadata"]["uid"]}
