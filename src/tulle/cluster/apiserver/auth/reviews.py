"""TokenReview, the access reviews, SelfSubjectReview and SelfSubjectRulesReview."""

from __future__ import annotations

from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.authenticate import Authenticator
from tulle.cluster.apiserver.auth.rbac import Rbac
from tulle.cluster.apiserver.auth.rules import Attributes, Rule
from tulle.cluster.apiserver.auth.tokens import ISSUER, TokenError
from tulle.cluster.apiserver.auth.users import User
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.apiserver.rest.fields import check_fields
from tulle.cluster.apiserver.rest.objects import check_type, now

Object = dict[str, Any]


class Reviews:
    """Answers the kinds that are questions."""

    def __init__(self, authenticator: Authenticator, rbac: Rbac) -> None:
        self._authenticator = authenticator
        self._rbac = rbac

    def review(self, call: Call, obj: Object) -> Object:
        """The review with its status. Raises StatusError."""
        check_type(obj, call.kind.api_version, call.kind.kind)
        obj = check_fields(call.kind, obj, call.options)
        spec = obj.setdefault("spec", {})
        match call.kind.kind:
            case "TokenReview":
                obj["status"] = self._token(spec)
            case "SelfSubjectReview":
                obj.pop("spec")
                obj["metadata"] = {"creationTimestamp": now()}
                obj["status"] = {"userInfo": call.options.user.as_user_info()}
            case "SelfSubjectAccessReview":
                obj["status"] = self._access(call, call.options.user, spec)
            case "SelfSubjectRulesReview":
                obj["status"] = self._rules(call.options.user, spec.get("namespace", ""))
            case _:
                obj["status"] = self._subject_access(call, spec)
        obj.setdefault("metadata", {})
        return obj

    def _token(self, spec: Object) -> Object:
        audiences = tuple(spec.get("audiences") or (ISSUER,))
        try:
            user, shared = self._authenticator.token_user(spec.get("token", ""), audiences)
        except TokenError as error:
            return {"user": {}, "error": f"[invalid bearer token, {error}]"}
        return {"authenticated": True, "user": user.as_user_info(), "audiences": list(shared)}

    def _subject_access(self, call: Call, spec: Object) -> Object:
        if not spec.get("user") and not spec.get("groups"):
            problem = errors.invalid_value("spec.user", "", "at least one of user or group must be specified")
            raise errors.invalid(call.kind.kind, call.kind.group, "", [problem])
        user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
        return self._access(call, user, spec)

    def _access(self, call: Call, user: User, spec: Object) -> Object:
        resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (resource is None) == (other is None):
            text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            raise errors.invalid(
                call.kind.kind, call.kind.group, "", [errors.invalid_value("spec.resourceAttributes", resource, text)]
            )
        if resource is not None:
            namespace = call.info.namespace or resource.get("namespace", "")
            attributes = Attributes(
                resource.get("verb", ""),
                resource.get("group", ""),
                resource.get("version", ""),
                resource.get("resource", ""),
                resource.get("subresource", ""),
                resource.get("name", ""),
                namespace,
            )
        else:
            attributes = Attributes((other or {}).get("verb", ""), path=(other or {}).get("path", ""))
        decision = self._rbac.decide(user, attributes)
        return {"allowed": decision.allowed} | ({"reason": decision.reason} if decision.reason else {})

    def _rules(self, user: User, namespace: str) -> Object:
        rules = self._rbac.held_rules(user, namespace)
        return {
            "resourceRules": [_resource_rule(rule) for rule in rules if rule.resources],
            "nonResourceRules": [
                {"verbs": sorted(r.verbs), "nonResourceURLs": list(r.paths)} for r in rules if r.paths
            ],
            "incomplete": False,
        }


def _resource_rule(rule: Rule) -> Object:
    shown = {"verbs": sorted(rule.verbs), "apiGroups": sorted(rule.groups), "resources": sorted(rule.resources)}
    return shown | ({"resourceNames": sorted(rule.names)} if rule.names else {})
