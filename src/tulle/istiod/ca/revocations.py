"""Revocation lists on their way from whoever runs the PKI to every proxy.

Key ``ca-crl.pem`` of Secret ``cacerts`` becomes ConfigMap ``istio-ca-crl`` of every namespace, as elsewhere in the field, and a
change of it holds without a restart. Proxies refuse everybody below an authority whose list is not truly its own; so such a
list goes no further than here, and the former ones stay. A key that is empty or gone takes all lists back.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tulle.envoy.revocations import RevocationsError, parse
from tulle.istiod.ca.config_map_publisher import REVOCATIONS, ConfigMapPublisher
from tulle.kube.client import Client
from tulle.kube.informer import Change, Informer
from tulle.kube.objects import Namespace, Secret

_log = structlog.get_logger(__name__)

KEY: Final = REVOCATIONS[1]


class RevocationPublisher:
    """``secret`` follows the Secret. Run it, ``config_maps`` and the namespaces' informer beside ``run``."""

    def __init__(self, client: Client, namespaces: Informer[Namespace], secret: Informer[Secret]) -> None:
        self._secret = secret
        self._publisher = ConfigMapPublisher(client, namespaces, REVOCATIONS)
        self.config_maps = self._publisher.config_maps
        secret.on_change(self._changed)

    async def run(self) -> None:
        """Publish until cancelled."""
        await self._secret.synced()
        await self._publisher.run()

    def _changed(self, change: Change[Secret]) -> None:
        try:
            text = published(change.new)
        except RevocationsError as error:
            where = "/".join(change.key)
            _log.error(
                "revocations_refused", secret=where, key=KEY, reason=str(error), remedy="former lists stay in force"
            )
        else:
            self._publisher.republish(text)


def published(secret: Secret | None) -> str | None:
    """The revocation lists of the Secret. Raises RevocationsError for what proxies must not be given."""
    if secret is None or not secret.data.get(KEY):
        return None
    try:
        text = base64.b64decode(secret.data[KEY], validate=True)
        listed = parse(text)
        _check_signatures(listed.lists, _authorities(secret))
    except binascii.Error as error:
        raise RevocationsError(f"not base64: {error}") from error
    return listed.pem.decode() or None


def _authorities(secret: Secret) -> Iterable[x509.Certificate]:
    for key in ("root-cert.pem", "ca-cert.pem", "cert-chain.pem"):
        try:
            yield from x509.load_pem_x509_certificates(base64.b64decode(secret.data.get(key, "")))
        except ValueError:
            continue  # Says who reads it to sign with it.


def _check_signatures(lists: Iterable[x509.CertificateRevocationList], authorities: Iterable[x509.Certificate]) -> None:
    known: dict[x509.Name, list[x509.Certificate]] = {}
    for authority in authorities:
        known.setdefault(authority.subject, []).append(authority)
    for listed in lists:
        signers = known.get(listed.issuer, [])
        if signers and not any(_signed(listed, signer) for signer in signers):
            raise RevocationsError(
                f"the list of {listed.issuer.rfc4514_string()} is not signed by that authority's key"
            )


def _signed(listed: x509.CertificateRevocationList, signer: x509.Certificate) -> bool:
    try:
        return listed.is_signature_valid(signer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, TypeError, ValueError):
        return False
