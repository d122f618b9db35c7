"""What of Secret cacerts becomes revocation lists that proxies are given."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.revoking import revocation_list
from tulle.envoy.revocations import RevocationsError
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.revocations import published
from tulle.kube.objects import Secret

DAY = timedelta(days=1)
ROOT = shapes.self_signed_root("cluster.local", datetime.now(UTC), DAY)
OTHER = shapes.self_signed_root("other", datetime.now(UTC), DAY)


def secret(lists: str | None) -> Secret:
    data = {"ca-cert.pem": shapes.pem((ROOT.certificate,)), "root-cert.pem": shapes.pem((ROOT.certificate,))}
    if lists is not None:
        data["ca-crl.pem"] = lists
    return Secret(data={key: base64.b64encode(text.encode()).decode() for key, text in data.items()})


def test_lists_of_the_mesh_and_of_others() -> None:
    text = revocation_list(ROOT, 1) + revocation_list(OTHER, 2)
    assert published(secret(text)) == text


@pytest.mark.parametrize("found", [None, secret(None), secret(""), secret("\n")])
def test_no_lists(found: Secret | None) -> None:
    assert published(found) is None


def test_a_list_in_the_name_of_an_authority_by_another_key() -> None:
    forged = shapes.Issuer(ROOT.certificate, OTHER.key)
    with pytest.raises(RevocationsError, match="is not signed by that authority's key"):
        published(secret(revocation_list(forged)))


def test_something_else() -> None:
    with pytest.raises(RevocationsError, match="PEM"):
        published(secret("nonsense"))
    with pytest.raises(RevocationsError, match="base64"):
        published(Secret(data={"ca-crl.pem": "!"}))
