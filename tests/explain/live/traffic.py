"""A round: tell the mesh, wait until everything is in force, ask everything with curl, and hold it against what explain said.

What explain says is computed in this process by the code of the command, from the objects that the API server holds. In force means that
the round's canaries let every client through (see `ground`). A case that differs is asked again for a few seconds, since a proxy may
take up a round's parts one after the other; what still differs is a failure of one side.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.waypoint import signing
from tulle.cli import podexec
from tulle.cli.explain import live
from tulle.cli.explain.evaluate import Seen, evaluate
from tulle.cli.explain.report import Report, explain
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World
from tulle.cli.explain.world import live as live_world
from tulle.kube import resources as res
from tulle.kube.client import Client

from . import drawing, ground
from .drawing import Case, Placed, Round
from .ground import Canary

ROOT = "istio-system"
PATIENCE = 20.0
_KINDS = {one.kind: one for one in (res.AUTHORIZATION_POLICIES, res.PEER_AUTHENTICATIONS, res.REQUEST_AUTHENTICATIONS)}
_CONFIG = res.untyped("", "v1", "configmaps", "ConfigMap", True)
_CURL = (*["curl", "-s", "-o", "/dev/null", "-m", "5", "--path-as-is", "-w"], r"%{exitcode} %{http_code} %{errormsg}\n")
_EMPTY_REPLY = 52
_ANSWERS = tuple((name, status == 200) for name, (_, status) in ground.AUTHORIZERS.items())
"""What explain is told that the authorizers answer."""


@dataclass(frozen=True)
class Disagreement:
    """A request that came out otherwise than explain said, and the objects of its round."""

    round: Round
    case: Case
    said: Report
    saw: str

    def __str__(self) -> str:
        settings = " ".join(name for name, on in self.round.settings.items() if on)
        objects = "\n".join(
            f"  {one.kind} {one.namespace}/{one.name}: {yaml.safe_dump(one.spec, default_flow_style=True, width=10**6).strip()}"
            for one in self.round.objects
        )
        return f"{self.case}\n  explain: {self.said.summary}\n  curl: {self.saw}\n  settings: {settings or 'none'}\n{objects}"


@dataclass
class Traffic:
    """The running mesh, seen through its API."""

    api: Client
    addresses: Mapping[str, str] = field(default_factory=dict)
    key: signing.EcKey = field(default_factory=lambda: signing.EcKey("k"))
    seen: Counter[str] = field(default_factory=Counter)
    _placed: list[Placed] = field(default_factory=list)

    async def look(self) -> None:
        """Learn the pods' addresses."""
        pods = await self.api.list(res.PODS)
        self.addresses = {
            f"{pod.metadata.namespace}/{pod.metadata.name}": pod.status.pod_ip or "" for pod in pods.items
        }

    async def compare(self, wanted: Round, number: int) -> list[Disagreement]:
        """Put the round and ask its cases."""
        canary = Canary(number)
        await self._put(wanted, canary)
        world = live_world(await live.lists(self.api, ROOT))
        said = {case: explain(world, self._ask(case)) for case in wanted.cases}
        saw = await self._until(said, {client: self._waiting(world, client, canary) for client in ground.CLIENTS})
        self.seen.update(report.sees.code for report in said.values())
        return [
            Disagreement(wanted, case, report, saw[case])
            for case, report in said.items()
            if not agrees(report.sees, saw[case])
        ]

    # -- the objects

    async def _put(self, wanted: Round, canary: Canary) -> None:
        config = {
            "rootNamespace": ROOT,
            "trustDomain": "cluster.local",
            "trustDomainAliases": [canary.alias],
            "tulle": wanted.settings,
            "extensionProviders": ground.providers(),
        }
        await self.api.patch(_CONFIG, live.MESH_CONFIG, {"data": {"mesh": yaml.safe_dump(config)}}, ROOT)
        await self.clear()
        self._placed = list(wanted.objects)
        await asyncio.gather(*(self.api.create(_KINDS[one.kind], _body(one)) for one in self._placed))
        # Replaced and never absent: without them the canary would be open to all.
        for kind, name, spec in canary.policies():
            await self.api.patch(
                _KINDS[kind],
                name,
                _body(Placed(kind, "canary", name, spec)),
                "canary",
                kind="apply",
                field_manager="round",
            )

    async def clear(self) -> None:
        """Take the last round's objects away."""
        await asyncio.gather(*(self.api.delete(_KINDS[one.kind], one.name, one.namespace) for one in self._placed))
        self._placed = []

    def _ask(self, case: Case) -> Ask:
        namespace, account = case.client.split("/")
        headers = [("x-team", team) for team in case.teams]
        named = (("Host", case.host), ("X-Forwarded-For", case.forwarded))
        headers += [(name, value) for name, value in named if value]
        url = case.base + case.path
        token, now = self._token(case), time.time()
        return Ask(f"pod/curl-{account}", namespace, case.method, url, tuple(headers), token, now, _ANSWERS)

    def _token(self, case: Case) -> str:
        claims: dict[str, Any] = {"iss": drawing.SECURE, "sub": "s", "team": "red"}
        match case.token:
            case "valid":
                return signing.token(self.key, claims)
            case "expired":
                return signing.token(self.key, {**claims, "exp": int(time.time()) - 3600})
            case "foreign":
                return signing.token(self.key, {**claims, "iss": "https://other.example"})
        return ""

    # -- curl

    def _waiting(self, world: World, client: str, canary: Canary) -> str:
        """Shell: wait for the round's canaries. Those that its own policies stop tell nothing; then a second must do."""
        urls = canary.urls(client, self.addresses["canary/canary"])
        open_ = [url for url in urls if evaluate(world, self._ask(Case(client, "GET", url, ""))).allowed]
        lines = [] if open_ == urls else ["sleep 1"]
        for url in open_:
            test = f'[ "$(curl -s -o /dev/null -m 2 -w %{{http_code}} {url})" = 200 ]'
            lines.append(
                f"i=0; until {test}; do i=$((i+1)); [ $i -lt 100 ] || {{ echo canary {url} >&2; exit 1; }}; sleep 0.05; done"
            )
        return "\n".join(lines)

    async def _until(self, said: Mapping[Case, Report], waiting: Mapping[str, str]) -> dict[Case, str]:
        """Ask all, then those that differ again."""
        saw: dict[Case, str] = {}
        left: Sequence[Case] = tuple(said)
        deadline = time.monotonic() + PATIENCE
        first = True
        while left and (first or time.monotonic() < deadline):
            saw.update(await self._curl(left, waiting if first else {}))
            left = [case for case in left if not agrees(said[case].sees, saw[case])]
            first = False
            await asyncio.sleep(0.2 if left else 0)
        return saw

    async def _curl(self, cases: Sequence[Case], waiting: Mapping[str, str]) -> dict[Case, str]:
        by_client: dict[str, list[Case]] = {}
        for case in cases:
            by_client.setdefault(case.client, []).append(case)
        asked = (self._curl_in(client, own, waiting.get(client, "")) for client, own in by_client.items())
        found: dict[Case, str] = {}
        for answers in await asyncio.gather(*asked):
            found.update(answers)
        return found

    async def _curl_in(self, client: str, cases: Sequence[Case], before: str) -> dict[Case, str]:
        namespace, account = client.split("/")
        script = "\n".join([before, *(self._line(case) for case in cases), "true"])
        output = await podexec.run(self.api, namespace, f"curl-{account}", "main", ["sh", "-c", script])
        return dict(zip(cases, output.decode().split("\n"), strict=False))

    def _line(self, case: Case) -> str:
        words = [*_CURL]
        words += ["-I"] if case.method == "HEAD" else ["-X", case.method]
        for name, value in self._ask(case).headers:
            words += ["-H", f"{name}: {value}"]
        if token := self._token(case):
            words += ["-H", f"Authorization: Bearer {token}"]
        return shlex.join([*words, case.base + case.path])


def _body(placed: Placed) -> dict[str, Any]:
    meta = {"name": placed.name, "namespace": placed.namespace}
    return {"apiVersion": _KINDS[placed.kind].api_version, "kind": placed.kind, "metadata": meta, "spec": placed.spec}


async def soak(
    kubeconfig: str, rounds: int, cases: int, number: int, tell: Callable[[str], None] = lambda _: None
) -> tuple[Traffic, list[Disagreement]]:
    """Draw and compare; stops after the first round with a disagreement. The mesh holds `ground.manifests`, Ready."""
    async with Client.from_kubeconfig(kubeconfig) as api:
        made = Traffic(api)
        await made.look()
        found: list[Disagreement] = []
        for index, one in enumerate(drawing.rounds(rounds, cases, number, made.addresses, signing.jwks(made.key))):
            found = await made.compare(one, index)
            if found:
                break
            if index % 10 == 9:
                tell(f"{made.seen.total():,} cases agree")
        await made.clear()
        return made, found


def agrees(said: Seen, saw: str) -> bool:
    """Whether curl's exit code and HTTP status are those foretold. `closed` is 56 or 52."""
    code, status, *_ = saw.split(" ")
    if said.code.isdigit():
        return code == "0" and status == said.code
    return int(code) in ((said.curl, _EMPTY_REPLY) if said.code == "closed" else (said.curl,))
