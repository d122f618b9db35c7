"""The context `tulle` in the user's own kubeconfig: put in without touching any other, and taken out again.

kubectl reads the files of $KUBECONFIG, or ~/.kube/config; the first of them gets the entries. Under sudo that is the file of the user who
called sudo, and it stays theirs.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

NAME = "tulle"
_SECTIONS = ("clusters", "users", "contexts")


class KubeconfigError(Exception):
    """The user's kubeconfig cannot be read or written; the message names the file."""


def users_file(environment: Mapping[str, str] = os.environ) -> Path:
    """The file that `kubectl config` would write to."""
    named = [part for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(named[0]) if named else _home(environment) / ".kube" / "config"


def _home(environment: Mapping[str, str]) -> Path:
    caller = environment.get("SUDO_USER")
    if caller and os.geteuid() == 0:
        return Path(pwd.getpwnam(caller).pw_dir)
    return Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"apiVersion": "v1", "kind": "Config"}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise KubeconfigError(f"{path} cannot be read as a kubeconfig, so it was left as it is: {error}") from error
    if not isinstance(found, dict):
        raise KubeconfigError(f"{path} is no kubeconfig (found a {type(found).__name__}), so it was left as it is")
    return found


def _write(path: Path, config: Mapping[str, Any]) -> None:
    made = [folder for folder in (path.parent,) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = path.stat() if path.exists() else path.parent.parent.stat()
    temporary = path.with_name(f".{path.name}.tulle")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            yaml.safe_dump(dict(config), file, sort_keys=False)
        if os.geteuid() == 0:
            for target in (*made, temporary):
                os.chown(target, owner.st_uid, owner.st_gid)
        temporary.replace(path)
    except OSError as error:
        raise KubeconfigError(f"{path} cannot be written: {error.strerror}") from error


def _without(config: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(config)
    for section in _SECTIONS:
        result[section] = [entry for entry in config.get(section) or [] if entry.get("name") != NAME]
    return result


def merge(own: Path, into: Path) -> str:
    """Add the cluster of the kubeconfig `own` as context `tulle`; it becomes current. Returns what was current before.

    Raises KubeconfigError; the file is then as it was.
    """
    ours, config = _read(own), _read(into)
    before = str(config.get("current-context") or "")
    merged = _without(config)
    entries = {
        "clusters": {"name": NAME, "cluster": ours["clusters"][0]["cluster"]},
        "users": {"name": NAME, "user": ours["users"][0]["user"]},
        "contexts": {"name": NAME, "context": {"cluster": NAME, "user": NAME}},
    }
    for section, entry in entries.items():
        merged[section].append(entry)
    merged["current-context"] = NAME
    _write(into, merged)
    return before


def remove(from_: Path, previous: str = "") -> bool:
    """Take the context `tulle` out; if it is current, `previous` becomes current again where it still exists.

    Returns whether there was anything to take out. Raises KubeconfigError.
    """
    if not from_.exists():
        return False
    config = _read(from_)
    rest = _without(config)
    if all(len(rest[section]) == len(config.get(section) or []) for section in _SECTIONS):
        return False
    if config.get("current-context") == NAME:
        known = {entry.get("name") for entry in rest["contexts"]}
        rest["current-context"] = previous if previous in known else ""
    _write(from_, rest)
    return True
