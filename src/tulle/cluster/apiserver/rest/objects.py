"""The rules that every object's metadata follows, whatever its kind."""

from __future__ import annotations

import datetime
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from tulle.cluster.apiserver.errors import (
    FieldError,
    bad_request,
    forbidden_field,
    invalid_value,
    required,
)
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.patch.fieldset import is_field_set
from tulle.cluster.apiserver.selectors import valid_label_key, valid_label_value

Object = dict[str, Any]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_LABEL = re.compile(rf"{_LABEL}\Z")
DNS_1035_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_UNSIGNED, _SIGNED = re.compile("[0-9]{1,18}"), re.compile("-?[0-9]{1,18}")
_SHOWN = 64
_OMITTED_WHEN_EMPTY = ("labels", "annotations", "finalizers", "ownerReferences", "generateName")
_MAX_ANNOTATIONS = 256 * 1024
LABEL_HELP = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_1035_HELP = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and "
    "end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_HELP = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_NAME_HELP = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_HELP = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end "
    "with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def now() -> str:
    """The current time as the API writes it (RFC 3339, whole seconds, UTC)."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_type(obj: Object, api_version: str, kind: str) -> None:
    """Fill in apiVersion, kind and metadata, or refuse other ones with 400."""
    if obj.get("metadata") is None:
        obj["metadata"] = {}
    if not isinstance(obj["metadata"], dict):
        raise bad_request(f"metadata: found a {type(obj['metadata']).__name__}, want an object")
    found_version, found_kind = obj.get("apiVersion") or api_version, obj.get("kind") or kind
    if found_version != api_version:
        raise bad_request(
            f"the API version in the data ({found_version}) does not match the expected API version ({api_version})"
        )
    if found_kind != kind:
        raise bad_request(f"{found_kind} in version {found_version!r} cannot be handled as a {kind}")
    obj["apiVersion"], obj["kind"] = api_version, kind
    for name in _OMITTED_WHEN_EMPTY:
        if not obj["metadata"].get(name, True):
            del obj["metadata"][name]


def check_namespace(kind: Kind, namespace: str, obj: Object) -> None:
    """Fill in the namespace of the request, or refuse another one with 400."""
    metadata = obj.setdefault("metadata", {})
    if not kind.namespaced:
        metadata.pop("namespace", None)
        return
    found = metadata.get("namespace") or namespace
    if found != namespace:
        raise bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request "
            f"(found {found!r}, the request says {namespace!r})"
        )
    metadata["namespace"] = namespace


def begin(kind: Kind, obj: Object) -> None:
    """System metadata of a new object: name from generateName, uid, creation time, generation; no status of its own."""
    metadata = obj["metadata"]
    if not metadata.get("name") and metadata.get("generateName"):
        base = metadata["generateName"][: 63 - 5] if kind.name_rule == "label" else metadata["generateName"][: 253 - 5]
        metadata["name"] = base + "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(5))
    for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = now()
    if kind.generation or kind.custom:
        metadata["generation"] = 1
    if kind.status:
        obj.pop("status", None)


def carry_over(kind: Kind, old: Object, new: Object, subresource: str) -> None:
    """Keep what an update may not change: system metadata always; the status on a main update, all but it on /status."""
    if subresource == "status":
        status, metadata = new.get("status"), new["metadata"]
        for key in [k for k in new if k not in ("apiVersion", "kind", "metadata")]:
            del new[key]
        new.update({k: v for k, v in old.items() if k not in ("apiVersion", "kind", "metadata", "status")})
        if status is not None:
            new["status"] = status
        kept = {k: v for k, v in old["metadata"].items() if k != "managedFields"}
        if not kind.custom:  # built-in status updates may also touch labels and annotations
            for name in ("labels", "annotations"):
                kept.pop(name, None)
                if metadata.get(name):
                    kept[name] = metadata[name]
        if "managedFields" in metadata:
            kept["managedFields"] = metadata["managedFields"]
        new["metadata"] = kept | {k: v for k, v in metadata.items() if k == "resourceVersion"}
    elif kind.status and not subresource:
        new.pop("status", None)
        if "status" in old:
            new["status"] = old["status"]
    _carry_metadata(kind, old["metadata"], new)


def _carry_metadata(kind: Kind, before: Mapping[str, Any], new: Object) -> None:
    metadata = new["metadata"]
    for name in (
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ):
        metadata.pop(name, None)
        if name in before:
            metadata[name] = before[name]
    metadata.pop("selfLink", None)
    metadata["name"] = before["name"]


def desired_state(kind: Kind, obj: Object) -> dict[str, Any]:
    """The part of an object that its generation counts changes of."""
    left_out = ("apiVersion", "kind", "metadata", "status") if kind.status else ("apiVersion", "kind", "metadata")
    return {key: value for key, value in obj.items() if key not in left_out}


def same(left: Object, right: Object) -> bool:
    """Whether two objects differ in nothing but resourceVersion and the times in managedFields."""
    return _comparable(left) == _comparable(right)


def _comparable(obj: Object) -> Object:
    metadata = {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}
    if "managedFields" in metadata:
        metadata["managedFields"] = [{k: v for k, v in e.items() if k != "time"} for e in metadata["managedFields"]]
    return {**obj, "metadata": metadata}


def check_name(path: str, name: str, rule: str) -> list[FieldError]:
    """Whether a name follows the rule of its kind: label, label1035, subdomain or path."""
    if not name:
        return [required(path, "name or generateName is required" if path == "metadata.name" else "")]
    limit = 63 if rule.startswith("label") else 253
    if rule == "path":
        if name in (".", "..") or "/" in name or "%" in name:
            return [invalid_value(path, name, "may not be '.' or '..' and may not contain '/' or '%'")]
        return []
    if len(name) > limit:
        return [invalid_value(path, name, f"must be no more than {limit} bytes")]
    pattern, text = {
        "label": (DNS_LABEL, LABEL_HELP),
        "label1035": (DNS_1035_LABEL, LABEL_1035_HELP),
        "subdomain": (DNS_SUBDOMAIN, SUBDOMAIN_HELP),
    }[rule]
    return [] if pattern.match(name) else [invalid_value(path, name, text)]


def check_labels(path: str, labels: Mapping[str, Any]) -> list[FieldError]:
    """Label syntax."""
    errors: list[FieldError] = []
    for key, value in labels.items():
        if not valid_label_key(key):
            errors.append(invalid_value(path, key, _NAME_HELP))
        if not valid_label_value(value):
            errors.append(invalid_value(path, value, _VALUE_HELP))
    return errors


def check_metadata(kind: Kind, obj: Object) -> list[FieldError]:
    """Everything wrong with an object's metadata."""
    metadata = obj["metadata"]
    rule = "label1035" if kind.plural == "services" and not kind.group else kind.name_rule
    errors = check_name("metadata.name", metadata.get("name", ""), rule)
    errors += check_labels("metadata.labels", metadata.get("labels") or {})
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if not valid_label_key(key.lower()):
            errors.append(invalid_value("metadata.annotations", key, _NAME_HELP))
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > _MAX_ANNOTATIONS:
        errors.append(
            FieldError(
                "FieldValueTooLong", "metadata.annotations", f"Too long: may not be more than {_MAX_ANNOTATIONS} bytes"
            )
        )
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        if not valid_label_key(finalizer):
            errors.append(invalid_value(f"metadata.finalizers[{index}]", finalizer, _NAME_HELP))
    errors += _check_managers(metadata.get("managedFields") or ())
    return errors + _check_owners(metadata.get("ownerReferences") or ())


def _check_managers(entries: Any) -> list[FieldError]:
    """The schema leaves open what fieldsV1 holds, but everybody who reads it later relies on its form."""
    return [
        invalid_value(
            f"metadata.managedFields[{index}].fieldsV1", entry["fieldsV1"], "must be a set of fields (FieldsV1)"
        )
        for index, entry in enumerate(entries)
        if entry.get("fieldsV1") is not None and not is_field_set(entry["fieldsV1"])
    ]


def _check_owners(owners: Any) -> list[FieldError]:
    errors: list[FieldError] = []
    for index, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{index}]"
        errors += [
            required(f"{path}.{n}", "must not be empty")
            for n in ("apiVersion", "kind", "name", "uid")
            if not owner.get(n)
        ]
    if sum(1 for owner in owners if owner.get("controller")) > 1:
        text = "Only one reference can have Controller set to true"
        errors.append(invalid_value("metadata.ownerReferences", [o.get("name") for o in owners], text))
    return errors


def check_finalizers_kept(old: Object, new: Object) -> list[FieldError]:
    """An object that is being deleted gets no new finalizers."""
    if not old["metadata"].get("deletionTimestamp"):
        return []
    added = sorted(set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ()))
    if not added:
        return []
    detail = f"no new finalizers can be added if the object is being deleted, found new finalizers {added}"
    return [forbidden_field("metadata.finalizers", detail)]


def parse_number(name: str, text: Any, *, signed: bool = False) -> int:
    """A number that a client writes as text, of 64 bits. Raises StatusError 400."""
    if not isinstance(text, str) or not (_SIGNED if signed else _UNSIGNED).fullmatch(text):
        raise bad_request(f"{name}: Invalid value: {str(text)[:_SHOWN]!r}: want a decimal number of 64 bits")
    return int(text)


def parse_revision(text: Any) -> int:
    """A resourceVersion as a number. Raises StatusError 400."""
    return parse_number("resourceVersion", text)
