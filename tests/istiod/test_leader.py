"""Leader election against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tulle.istiod.leader import LeaderElection
from tulle.kube.client import Client
from tulle.kube.resources import LEASES

from .conftest import eventually


class Candidate:
    """Counts how often it led, and whether it does now."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self.election = LeaderElection(client, "leader", namespace, name, duration=2, deadline=1, renew=0.05)
        self.times = 0

    async def lead(self) -> None:
        self.times += 1
        await asyncio.Event().wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.election.run(self.lead))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def leads(self) -> bool:
        return self.election.leading


async def test_a_lease_that_ran_out_is_taken(client: Client, namespace: str) -> None:
    spec = {"holderIdentity": "dead", "leaseDurationSeconds": 1}
    await client.create(LEASES, {"metadata": {"name": "leader", "namespace": namespace}, "spec": spec})
    candidate = Candidate(client, namespace, "alive")
    async with candidate.running():
        await eventually(candidate.leads, "the dead holder's time runs out")
    assert (await client.get(LEASES, "leader", namespace)).spec.lease_transitions == 1


async def test_the_same_pod_goes_on_at_once(client: Client, namespace: str) -> None:
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 3600}
    await client.create(LEASES, {"metadata": {"name": "leader", "namespace": namespace}, "spec": spec})
    candidate = Candidate(client, namespace, "me")
    async with candidate.running():
        await eventually(candidate.leads, "the lease is its own")


async def test_who_lost_the_lease_stops(client: Client, namespace: str) -> None:
    candidate = Candidate(client, namespace, "me")
    async with candidate.running():
        await eventually(candidate.leads, "nobody else is there")
        taken = {"spec": {"holderIdentity": "other", "leaseDurationSeconds": 3600}}
        await client.patch(LEASES, "leader", taken, namespace)

        async def stopped() -> bool:
            return not candidate.election.leading

        await eventually(stopped, "another one holds the lease")
        assert candidate.times == 1
    assert (await client.get(LEASES, "leader", namespace)).spec.holder_identity == "other"


async def test_two_candidates_one_leader(client: Client, namespace: str) -> None:
    first, second = Candidate(client, namespace, "a"), Candidate(client, namespace, "b")
    async with second.running():
        async with first.running():

            async def somebody() -> bool:
                return first.election.leading or second.election.leading

            await eventually(somebody, "one of them leads")
            assert first.election.leading != second.election.leading
        await eventually(second.leads, "the one that is left leads")


async def test_who_gets_no_answer_stops_before_the_lease_runs_out(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = Candidate(client, namespace, "me")
    async with candidate.running():
        await eventually(candidate.leads, "nobody else is there")
        silence = asyncio.Event()
        for verb in ("get", "replace"):
            monkeypatch.setattr(client, verb, lambda *_, **__: silence.wait())
        loop = asyncio.get_running_loop()
        since = loop.time()

        async def stopped() -> bool:
            return not candidate.election.leading or loop.time() - since > 3

        await eventually(stopped, "its time is up")
        assert loop.time() - since < 2
