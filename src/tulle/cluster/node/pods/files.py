"""The files of /etc that the kubelet writes for every pod: hosts, hostname, resolv.conf (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from tulle.cluster.node.pods.spec import DNSConfig, Pod

_HEAD = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def hosts(pod: Pod, ip: str, hostname: str, cluster_domain: str) -> str:
    """The pod's own name and its hostAliases. With a subdomain the full name comes first, as in Kubernetes."""
    lines = [_HEAD]
    if pod.spec.subdomain:
        lines.append(
            f"{ip}\t{hostname}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}\t{hostname}\n"
        )
    else:
        lines.append(f"{ip}\t{hostname}\n")
    if pod.spec.host_aliases:
        lines.append("\n# Entries added by HostAliases.\n")
        lines += [f"{alias.ip}\t{chr(9).join(alias.hostnames)}\n" for alias in pod.spec.host_aliases]
    return "".join(lines)


def resolv_conf(base: str, policy: str, config: DNSConfig) -> str:
    """`base` is what the node gives for the policy; the pod's dnsConfig is added to it (for policy None it is all
    there is).
    """
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in base.splitlines() if policy != "None" else ():
        word, _, rest = line.strip().partition(" ")
        {"nameserver": servers, "search": searches, "options": options}.get(word, []).extend(rest.split())
    servers = _unique([*servers, *config.nameservers])
    searches = _unique([*searches, *config.searches])
    added = {option.name: f"{option.name}:{option.value}" if option.value else option.name for option in config.options}
    options = [o for o in options if o.partition(":")[0] not in added] + list(added.values())
    lines = [f"search {' '.join(searches)}"] if searches else []
    lines += [f"nameserver {server}" for server in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "\n".join(lines) + "\n"


def _unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))
