"""Another Secret ``cacerts`` under a running mesh: signed with from then on, without a restart.

A proxy learns of roots with its certificate, hours apart from the others. So a root is added or taken away, never
exchanged: a Secret of which neither knows the other's roots would split the mesh at once, and is refused like one that
cannot be used. What is refused changes nothing; the authority in use goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from cryptography import x509

from tulle.istiod.ca.authority import Authority, AuthorityError, Clock, Roots, utc_now
from tulle.istiod.ca.store import PLUGGED, decoded, leads_to, plugged_roots, where
from tulle.kube.client import Client
from tulle.kube.informer import Change, Informer
from tulle.kube.objects import Secret
from tulle.kube.resources import SECRETS

_log = structlog.get_logger(__name__)


def secret_informer(client: Client, namespace: str) -> Informer[Secret]:
    """Follows the one Secret."""
    return Informer(client, SECRETS, namespace, field_selector=f"metadata.name={PLUGGED}")


class PluggedCa:
    """Makes ``authority`` follow the Secret; ``taken`` is called after each change. Run ``secret`` beside it."""

    def __init__(
        self, secret: Informer[Secret], authority: Authority, taken: Callable[[], None], *, clock: Clock = utc_now
    ) -> None:
        self.secret = secret
        self._authority = authority
        self._taken = taken
        self._clock = clock
        secret.on_change(self._changed)

    def _changed(self, change: Change[Secret]) -> None:
        found = where(*change.key)
        if change.new is None:
            _log.warning(
                "plugged-in authority deleted",
                secret=found,
                consequence="the authority in use goes on until istiod starts anew, then istio-ca-secret signs",
            )
            return
        try:
            roots = plugged_roots(decoded(change.new, found), found, self._clock())
            if roots.same_as(self._authority.roots):
                return
            before = self._authority.roots
            check_successor(before, roots, found)
            self._authority.replace(roots)
        except AuthorityError as error:
            _log.error(
                "plugged-in authority refused", reason=str(error), consequence="the authority in use goes on signing"
            )
            return
        _log.info("plugged-in authority taken", secret=found, signer=_signer(roots), trusted=_names(roots.trusted))
        if roots.signer is not None and not leads_to(roots.signer, before.trusted):
            _log.warning(
                "plugged-in authority is unknown to proxies",
                secret=found,
                signer=_signer(roots),
                consequence="proxies that have not renewed their certificates refuse those that have; to avoid it, add the root first",
            )
        self._taken()


def check_successor(now: Roots, new: Roots, where: str) -> None:
    """Refuse roots that proxies with the present ones could not live beside. Raises AuthorityError."""
    before, after = set(now.trusted), set(new.trusted)
    if not (before <= after or after <= before):
        raise AuthorityError(
            f"{where}: data['root-cert.pem'] has {_names(new.trusted)}, and without {_names(tuple(before - after))} "
            "proxies would not know one another: put the roots in use and the new ones there, wait until every proxy "
            "has renewed its certificate, then take the old ones away (or restart istiod, to exchange them at once)"
        )


def _signer(roots: Roots) -> str:
    return roots.signer.certificate.subject.rfc4514_string() if roots.signer is not None else ""


def _names(certificates: tuple[x509.Certificate, ...]) -> list[str]:
    return [one.subject.rfc4514_string() for one in certificates]
