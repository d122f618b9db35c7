"""The node proxy's policies as protobufs: `tulle.security.ztunnel` field by field into `istio.security.Authorization` (spec E3)."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import empty_pb2

from tulle.security import ztunnel
from tulle.security.match import StringForm, StringMatch
from tulle.security.model import Action
from tulle.xds.proto import authorization_pb2 as pb

_ACTIONS = {Action.ALLOW: pb.Action.ALLOW, Action.DENY: pb.Action.DENY}
_SCOPES = {
    ztunnel.Scope.GLOBAL: pb.Scope.GLOBAL,
    ztunnel.Scope.NAMESPACE: pb.Scope.NAMESPACE,
    ztunnel.Scope.WORKLOAD_SELECTOR: pb.Scope.WORKLOAD_SELECTOR,
}


def authorization(policy: ztunnel.ZtunnelPolicy) -> pb.Authorization:
    """Convert one policy. Raises KeyError for an action that node proxies do not have (the engine never makes one)."""
    return pb.Authorization(
        name=policy.name,
        namespace=policy.namespace,
        scope=_SCOPES[policy.scope],
        action=_ACTIONS[policy.action],
        rules=[pb.Rule(clauses=[_clause(clause) for clause in rule.clauses]) for rule in policy.rules],
        dry_run=policy.dry_run,
    )


def _clause(clause: ztunnel.Clause) -> pb.Clause:
    return pb.Clause(matches=[_match(match) for match in clause.matches])


def _match(match: ztunnel.Match) -> pb.Match:
    return pb.Match(
        namespaces=_strings(match.namespaces),
        not_namespaces=_strings(match.not_namespaces),
        principals=_strings(match.principals),
        not_principals=_strings(match.not_principals),
        source_ips=_addresses(match.source_ips),
        not_source_ips=_addresses(match.not_source_ips),
        destination_ips=_addresses(match.destination_ips),
        not_destination_ips=_addresses(match.not_destination_ips),
        destination_ports=match.destination_ports,
        not_destination_ports=match.not_destination_ports,
        service_accounts=_service_accounts(match.service_accounts),
        not_service_accounts=_service_accounts(match.not_service_accounts),
    )


def _strings(values: Iterable[StringMatch]) -> list[pb.StringMatch]:
    return [_string(value) for value in values]


def _string(value: StringMatch) -> pb.StringMatch:
    match value.form:
        case StringForm.EXACT:
            return pb.StringMatch(exact=value.value)
        case StringForm.PREFIX:
            return pb.StringMatch(prefix=value.value)
        case StringForm.SUFFIX:
            return pb.StringMatch(suffix=value.value)
        case StringForm.PRESENCE:
            return pb.StringMatch(presence=empty_pb2.Empty())


def _addresses(values: Iterable[ztunnel.Address]) -> list[pb.Address]:
    return [pb.Address(address=value.address, length=value.length) for value in values]


def _service_accounts(values: Iterable[ztunnel.ServiceAccountMatch]) -> list[pb.ServiceAccountMatch]:
    return [pb.ServiceAccountMatch(namespace=value.namespace, serviceAccount=value.service_account) for value in values]
