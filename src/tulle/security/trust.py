"""Trust domain aliases.

A mesh that changes its trust domain keeps the old names as aliases, and policies written for any of them go on to hold. A
waypoint expands them; ztunnel compares exactly (C3).
"""

from __future__ import annotations

DEFAULT_TRUST_DOMAIN = "cluster.local"


def expand_principals(values: tuple[str, ...], trust_domains: tuple[str, ...]) -> tuple[str, ...]:
    """Expand each principal of five segments whose trust domain is the mesh's, an alias or ``cluster.local``.

    ``trust_domains`` is the mesh's own first, then its aliases. Any other value, ``*/ns/…`` included, is left alone.
    """
    found: list[str] = []
    for value in values:
        domain, *rest = value.split("/")
        if len(rest) == 4 and _ours(domain, trust_domains):
            found += ["/".join((name, *rest)) for name in trust_domains]
        else:
            found.append(value)
    return tuple(dict.fromkeys(found))


def expand_trust_domains(values: tuple[str, ...], trust_domains: tuple[str, ...]) -> tuple[str, ...]:
    """The same for values of ``trustDomains``."""
    found: list[str] = []
    for value in values:
        found += trust_domains if _ours(value, trust_domains) else (value,)
    return tuple(dict.fromkeys(found))


def _ours(domain: str, trust_domains: tuple[str, ...]) -> bool:
    return domain == DEFAULT_TRUST_DOMAIN or domain in trust_domains
