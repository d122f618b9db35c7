"""Building blocks of the rules: each takes a document and a path and yields what is wrong."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tulle.cluster.apiserver.errors import FieldError, duplicate, invalid_value, not_supported, required
from tulle.cluster.apiserver.rest.objects import DNS_LABEL, LABEL_HELP, check_labels
from tulle.cluster.apiserver.selectors import valid_label_key

Object = Mapping[str, Any]
PROTOCOLS = ("SCTP", "TCP", "UDP")
_SERVICE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_PERCENT = re.compile(r"[0-9]+%\Z")
_OPERATORS = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}


def one_of(path: str, value: Any, accepted: Iterable[Any], *, needed: bool = True) -> Iterator[FieldError]:
    """The value must be one of the accepted ones; absent is a missing value if it is needed."""
    listed = list(accepted)
    if value in (None, ""):
        if needed:
            yield required(path)
    elif value not in listed:
        yield not_supported(path, value, listed)


def port_number(path: str, value: Any) -> Iterator[FieldError]:
    """A port from 1 to 65535."""
    if not isinstance(value, int) or not 1 <= value <= 65535:
        yield invalid_value(path, 0 if value is None else value, "must be between 1 and 65535, inclusive")


def port_name(path: str, value: str) -> Iterator[FieldError]:
    """An IANA service name, as container ports have."""
    if len(value) > 15:
        yield invalid_value(path, value, "must be no more than 15 characters")
    elif not _SERVICE_NAME.match(value):
        yield invalid_value(path, value, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    elif not re.search("[a-z]", value):
        yield invalid_value(path, value, "must contain at least one letter (a-z)")


def label_name(path: str, value: Any) -> Iterator[FieldError]:
    """A DNS label."""
    if not value:
        yield required(path)
    elif not isinstance(value, str) or len(value) > 63 or not DNS_LABEL.match(value):
        yield invalid_value(path, value, LABEL_HELP)


def non_negative(path: str, value: Any) -> Iterator[FieldError]:
    """A number that is not below zero (absent is fine)."""
    if isinstance(value, int) and value < 0:
        yield invalid_value(path, value, "must be greater than or equal to 0")


def count_or_percent(path: str, value: Any) -> Iterator[FieldError]:
    """A number or a percentage, neither below zero (absent is fine)."""
    if isinstance(value, str) and not _PERCENT.match(value):
        text = (
            "a valid percent string must be a numeric string followed by an ending '%' "
            "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
        )
        yield invalid_value(path, value, text)
    elif not isinstance(value, str):
        yield from non_negative(path, value)


def unique_names(path: str, items: Iterable[Object], key: str = "name") -> Iterator[FieldError]:
    """No two items share a name."""
    seen: set[Any] = set()
    for index, item in enumerate(items):
        name = item.get(key)
        if name and name in seen:
            yield duplicate(f"{path}[{index}].{key}", name)
        seen.add(name)


def address(path: str, value: Any) -> Iterator[FieldError]:
    """An IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        yield invalid_value(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def label_selector(path: str, selector: Object) -> Iterator[FieldError]:
    """A LabelSelector object."""
    yield from check_labels(f"{path}.matchLabels", selector.get("matchLabels") or {})
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        operator = expression.get("operator")
        if operator not in _OPERATORS:
            yield invalid_value(f"{at}.operator", operator or "", "not a valid selector operator")
        elif _OPERATORS[operator] and not expression.get("values"):
            yield required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif not _OPERATORS[operator] and expression.get("values"):
            yield FieldError(
                "FieldValueForbidden",
                f"{at}.values",
                "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )
        if not valid_label_key(expression.get("key") or ""):
            yield invalid_value(f"{at}.key", expression.get("key", ""), "must be a qualified label name")
