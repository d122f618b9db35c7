"""What surrounds a verdict: who is captured, who speaks plaintext, which endpoints answer, and whether certificates are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tulle.cli.explain.evaluate import Evaluation
from tulle.cli.explain.findings import Finding, note
from tulle.cli.explain.places import Endpoint, Sort, capture_of
from tulle.cli.explain.route import control_plane
from tulle.cli.explain.world import World
from tulle.istiod.index import labels as names

SCRAPE = "prometheus.io/scrape"


def capture(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """Ends that the mesh does not hold."""
    client = evaluation.way.client
    if client.sort is Sort.KUBELET:
        yield note("probes-pass", client.why)
    elif client.sort is Sort.PLAIN:
        who = client.what if client.pod is None else f"{client.what} is outside the mesh ({client.why}): it"
        text = f"{who} has no identity, so no principal or namespace in a policy is its own"
        yield note("outside-mesh", text)
    for endpoint in _distinct(evaluation):
        if not endpoint.state.record.hbone and not endpoint.is_pod:
            text = f"{endpoint.what} is outside the mesh: it is reached in plaintext, and nothing is enforced at it"
            yield note("server-outside-mesh", text)
        elif not endpoint.state.record.hbone:
            reason = capture_of(world, endpoint.state).reason.value
            text = f"pod {endpoint.name} is not captured ({reason}): nothing is enforced at it, STRICT neither"
            yield Finding("server-not-captured", text)
        elif any(fate.leg.endpoint == endpoint and not fate.leg.request.captured for fate in evaluation.fates):
            yield Finding(
                "inbound-not-captured", f"pod {endpoint.name} bypasses inbound capture: nothing is enforced at it"
            )


def _distinct(evaluation: Evaluation) -> Iterator[Endpoint]:
    """One endpoint of each make."""
    seen: set[tuple[str, bool]] = set()
    for fate in evaluation.fates:
        record = fate.leg.endpoint.state.record
        if (record.workload_name, record.hbone) not in seen:
            seen.add((record.workload_name, record.hbone))
            yield fate.leg.endpoint


def plaintext(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """Who speaks plaintext to a place, whether STRICT stands before it or is only being thought of."""
    fate = evaluation.worst
    if fate is None or evaluation.way.client.sort is not Sort.PLAIN or not fate.leg.request.captured:
        return
    strict = not fate.allowed and fate.hop.decided_by is not None and fate.hop.decided_by.kind == "PeerAuthentication"
    if not strict and not fate.allowed:
        return
    if fate.allowed:
        yield note(
            "plaintext-accepted", "the request passes because plaintext is accepted here; STRICT would refuse it"
        )
    record = fate.leg.endpoint.state.record
    for name, service in sorted(webhooks(world)):
        if service in {one.service for one in fate.leg.endpoint.state.services}:
            text = f"{name} is served here: the API server calls it without an identity, so STRICT breaks it"
            yield Finding("webhook-under-strict", text, trap=strict)
    manifest = world.manifest("Pod", record.namespace, record.name) or {}
    annotations = (manifest.get("metadata") or {}).get("annotations") or {}
    if annotations.get(SCRAPE) == "true":
        text = f"pod {fate.leg.endpoint.name} asks to be scraped ({SCRAPE}): under STRICT a Prometheus outside the mesh is refused"
        yield Finding("scraper-under-strict", text, trap=strict)
    outside = outsiders(world)
    if outside:
        named = ", ".join(f"{namespace} ({count})" for namespace, count in sorted(outside.items()))
        yield note("plaintext-speakers", f"pods that speak plaintext today, by namespace: {named}")
    if any(
        container.get(probe) for container in (manifest.get("spec") or {}).get("containers") or () for probe in _PROBES
    ):
        yield note("probes-pass", "the kubelet's probes of this pod still pass: they reach it before redirection")


_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def webhooks(world: World) -> Iterator[tuple[str, tuple[str, str]]]:
    """Admission webhooks and the Services that serve them, as (name, (namespace, hostname))."""
    for document in world.of("ValidatingWebhookConfiguration"):
        for webhook in document.manifest.get("webhooks") or ():
            service = (webhook.get("clientConfig") or {}).get("service")
            if service:
                host = f"{service.get('name')}.{service.get('namespace')}.svc.cluster.local"
                yield f"{document.key} ({webhook.get('name')})", (str(service.get("namespace")), host)


def outsiders(world: World) -> Counter[str]:
    """How many pods of each namespace are outside the mesh, so speak plaintext. The mesh's own are not counted."""
    root = world.settings.root_namespace
    found: Counter[str] = Counter()
    for state in world.index.workloads.values():
        record = state.record
        if (
            record.kind == "Pod"
            and not record.hbone
            and record.namespace != root
            and names.GATEWAY_NAME not in record.labels
        ):
            found[record.namespace] += 1
    return found


def endpoints(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """A rollout seen from outside: endpoints that do not take requests, or do not agree."""
    target = evaluation.way.target
    if target.waiting and target.endpoints:
        waiting = ", ".join(f"{one.record.namespace}/{one.record.name}" for one in target.waiting)
        text = f"not ready, so without requests: {waiting}; a client that keeps a connection to one sees it closed or gets 503 meanwhile"
        yield note("rollout", text)
    if evaluation.mixed:
        verdicts = "; ".join(f"{fate.leg.endpoint.name} answers {fate.code}" for fate in evaluation.fates)
        yield Finding("endpoints-differ", f"it depends on the pod that the request goes to: {verdicts}")


def authorizers(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """Who else is asked, by which policy."""
    for asks in dict.fromkeys(fate.asks for fate in evaluation.fates):
        if asks is None:
            continue
        if asks.answer is None:
            yield note(
                "authorizer-asked",
                f"{asks.policy}, {asks.rule} asks {asks.who} about this request; its answer is not known here",
            )
        elif asks.reached:
            yield note("authorizer-asked", asks.reason)
        else:
            yield Finding("authorizer-missing", asks.reason)


def certificates(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """Nobody can prove an identity without a certificate (D9)."""
    for endpoint in _distinct(evaluation):
        record = endpoint.state.record
        meta = (world.manifest("Pod", record.namespace, record.name) or {}).get("metadata") or {}
        if (meta.get("annotations") or {}).get(names.REDIRECTION) == "pending":
            yield Finding(
                "server-pending",
                f"pod {endpoint.name} is redirected, but no ztunnel has taken it over yet: it takes no traffic",
            )
    if world.live and not any(pod.record.ready for pod in control_plane(world)):
        root = world.settings.root_namespace
        text = (
            f"no istiod is ready in {root}: unless this mesh has its control plane elsewhere, pods that started without one have no "
            "certificate and their connections are reset (curl 56), those whose certificate runs out lose it, and changes reach no proxy; "
            f"see kubectl get pods -n {root} -l app=istiod"
        )
        yield Finding("no-certificates", text)
