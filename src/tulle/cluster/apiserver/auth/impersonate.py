"""Acting as somebody else (`kubectl --as`), for those who may."""

from __future__ import annotations

from multidict import CIMultiDictProxy

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.rbac import Rbac, require
from tulle.cluster.apiserver.auth.rules import Attributes
from tulle.cluster.apiserver.auth.users import AUTHENTICATED, SERVICE_ACCOUNT_PREFIX, User, service_account_user


def impersonated(user: User, headers: CIMultiDictProxy[str], rbac: Rbac) -> User:
    """The user that the Impersonate-* headers name, or `user`. Raises StatusError 400 or 403."""
    name = headers.get("Impersonate-User", "")
    groups = tuple(headers.getall("Impersonate-Group", []))
    uid = headers.get("Impersonate-Uid", "")
    if not name:
        if groups or uid:
            raise errors.bad_request("requested groups or uid without impersonating a user: set Impersonate-User too")
        return user
    wanted = [_user_attributes(name)]
    wanted += [Attributes("impersonate", resource="groups", name=group) for group in groups]
    if uid:
        wanted.append(Attributes("impersonate", group="authentication.k8s.io", resource="uids", name=uid))
    for attributes in wanted:
        require(rbac, user, attributes)
    if name.startswith(SERVICE_ACCOUNT_PREFIX) and not groups:
        namespace, _, account = name.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
        return service_account_user(namespace, account, uid, {})
    return User(name, (*dict.fromkeys((*groups, AUTHENTICATED)),), uid)


def _user_attributes(name: str) -> Attributes:
    if name.startswith(SERVICE_ACCOUNT_PREFIX):
        namespace, _, account = name.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
        return Attributes("impersonate", resource="serviceaccounts", name=account, namespace=namespace)
    return Attributes("impersonate", resource="users", name=name)
