"""Decisions in bulk: JSON lines of requests in, JSON lines of decisions out, in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tulle.cli.explain.authorizers import Answers
from tulle.cli.explain.documents import InputError
from tulle.cli.explain.evaluate import Evaluation, evaluate
from tulle.cli.explain.report import verdict
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World

FIELDS: Mapping[str, str] = {
    "url": "what is asked for, as curl takes it (required)",
    "client": "pod/NAME, deployment/NAME, serviceaccount/NAME, spiffe://…, kubelet or outside (required)",
    "namespace": 'the client\'s namespace ("default")',
    "method": 'HTTP method ("GET")',
    "headers": "object of name to value, or to a list of values",
    "jwt": "bearer token",
    "id": "anything; returned with the decision",
}


def decide_lines(world: World, lines: Iterable[str], now: float, answers: Answers = ()) -> Iterator[dict[str, Any]]:
    """One decision for each line that is not empty; a line that is no request gives an object with `error`.

    `answers` are assumed of external authorizers.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            identifier, ask = _read(line, now)
            yield {**identifier, **_told(evaluate(world, replace(ask, authorizers=answers)))}
        except InputError as error:
            yield {"line": number, "error": str(error)}


def _read(line: str, now: float) -> tuple[dict[str, Any], Ask]:
    try:
        line.encode()
        value = json.loads(line)
    except UnicodeEncodeError as error:
        raise InputError("this is no UTF-8") from error
    except ValueError as error:
        raise InputError(f"this is no JSON: {error}") from error
    except RecursionError as error:
        raise InputError("this is nested too deeply") from error
    if not isinstance(value, dict):
        raise InputError(f"found {type(value).__name__}; accepted is an object with {', '.join(FIELDS)}")
    for name in value:
        if name not in FIELDS:
            raise InputError(f"{name}: unknown field; accepted are {', '.join(FIELDS)}")
    ask = Ask(
        _text(value, "client"),
        _text(value, "namespace", "default"),
        _text(value, "method", "GET"),
        _text(value, "url"),
        tuple(_headers(value.get("headers") or {})),
        _text(value, "jwt", ""),
        now,
    )
    return ({"id": value["id"]} if "id" in value else {}), ask


def _text(value: Mapping[str, Any], name: str, default: str | None = None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str):
        raise InputError(f"{name}: found {found!r}; accepted is {FIELDS[name]}")
    return found


def _headers(value: object) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        raise InputError(f"headers: found {value!r}; accepted is {FIELDS['headers']}")
    for name, given in value.items():
        for one in given if isinstance(given, list) else [given]:
            if not isinstance(one, str):
                raise InputError(f"headers.{name}: found {one!r}; accepted is a string or a list of strings")
            yield name, one


def _told(evaluation: Evaluation) -> dict[str, Any]:
    seen, worst, stop = evaluation.seen, evaluation.worst, evaluation.way.stop
    hop = worst.hop if worst is not None and stop is None else None
    asks = worst.asks if worst is not None and worst.undecided else None
    return {
        "allowed": evaluation.allowed,
        "verdict": verdict(evaluation),
        "sees": seen.code,
        "curl": seen.curl,
        "where": worst.decision.hops[0].where if asks and worst else hop.where if hop else "",
        "policy": str(asks.policy) if asks else str(hop.decided_by) if hop and hop.decided_by else "",
        "clause": asks.rule if asks else hop.field if hop else "",
        "reason": _reason(evaluation),
    }


def _reason(evaluation: Evaluation) -> str:
    worst, stop = evaluation.worst, evaluation.way.stop
    if stop is not None:
        return stop.reason
    if worst is None:
        return "outside the mesh"
    return evaluation.seen.text if worst.undecided else worst.hop.reason
