"""Who a container runs as: an image's `USER` and a pod's securityContext, looked up in the image's own /etc/passwd."""

from __future__ import annotations

from dataclasses import dataclass


class UnknownUserError(ValueError):
    """A user or group name that the image does not know."""


@dataclass(frozen=True)
class Account:
    """`home` is empty when the image does not know the user."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = ""


def resolve(user: str, passwd: str, group: str) -> Account:
    """`user` is `name`, `uid`, `name:group` or `uid:gid`; empty is root. Raises UnknownUserError."""
    name, _, group_name = (user or "0").partition(":")
    entry = _passwd_entry(name, passwd)
    if entry is None and not name.isdigit():
        raise UnknownUserError(f"unable to find user {name}: no matching entries in the image's passwd file")
    uid = int(entry[2]) if entry is not None else int(name)
    gid = int(entry[3]) if entry is not None else 0
    if group_name:
        gid = _group_id(group_name, group)
    login = entry[0] if entry is not None else ""
    groups = () if group_name or not login else tuple(_memberships(login, group))
    return Account(uid, gid, tuple(g for g in groups if g != gid), entry[5] if entry is not None else "")


def _lines(text: str, fields: int) -> list[list[str]]:
    split = [line.split(":") for line in text.splitlines()]
    return [line for line in split if len(line) >= fields and line[2].isdigit()]


def _passwd_entry(name: str, passwd: str) -> list[str] | None:
    entries = _lines(passwd, 7)
    by_name = next((entry for entry in entries if entry[0] == name), None)
    return by_name or next((entry for entry in entries if name.isdigit() and int(entry[2]) == int(name)), None)


def _group_id(name: str, group: str) -> int:
    for entry in _lines(group, 4):
        if entry[0] == name:
            return int(entry[2])
    if not name.isdigit():
        raise UnknownUserError(f"unable to find group {name}: no matching entries in the image's group file")
    return int(name)


def _memberships(login: str, group: str) -> list[int]:
    return [int(entry[2]) for entry in _lines(group, 4) if login in entry[3].split(",")]
