"""Revocation lists: what is read of them, how far peers are looked up, and what the file's owner may do to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.revoking import revocation_list
from tulle.envoy.revocations import Depth, RevocationFile, Revocations, RevocationsError, parse
from tulle.istiod.ca import x509 as shapes

DAY = timedelta(days=1)
ROOT = shapes.self_signed_root("cluster.local", datetime.now(UTC), DAY)
SIGNER = shapes.intermediate(ROOT, "cluster.local", datetime.now(UTC), DAY)
OTHER = shapes.self_signed_root("other", datetime.now(UTC), DAY)


def leaf(issuer: shapes.Issuer) -> x509.Certificate:
    now, key = datetime.now(UTC), shapes.new_key().public_key()
    return shapes.svid(issuer, "spiffe://cluster.local/ns/a/sa/b", key, now, now + DAY)


LEAF = leaf(SIGNER)
CHAIN = (LEAF, SIGNER.certificate)


def lists(*texts: str) -> Revocations:
    return parse("".join(texts).encode())


@pytest.mark.parametrize(
    ("found", "depth"),
    [
        (lists(), Depth.NOTHING),
        (lists(revocation_list(ROOT), revocation_list(SIGNER)), Depth.CHAIN),
        (lists(revocation_list(SIGNER)), Depth.LEAF),
        (lists(revocation_list(ROOT)), Depth.NOTHING),
        (lists(revocation_list(OTHER, 1)), Depth.NOTHING),
        (lists(revocation_list(ROOT, SIGNER.certificate.serial_number)), Depth.CHAIN),
        (lists(revocation_list(ROOT, LEAF.serial_number)), Depth.NOTHING),
    ],
)
def test_how_far_peers_are_looked_up(found: Revocations, depth: Depth) -> None:
    assert found.depth([CHAIN], [ROOT.certificate]) is depth


def test_a_second_root_without_a_list_is_not_looked_up() -> None:
    both = lists(revocation_list(ROOT), revocation_list(SIGNER))
    assert both.depth([CHAIN], [ROOT.certificate, OTHER.certificate]) is Depth.LEAF


def test_a_serial_number_counts_for_its_authority_only() -> None:
    found = lists(revocation_list(SIGNER, LEAF.serial_number))
    assert found.has(LEAF)
    assert not lists(revocation_list(ROOT, LEAF.serial_number)).has(LEAF)
    assert found.serials == {LEAF.serial_number}


def test_lists_of_one_authority_add_up() -> None:
    assert lists(revocation_list(SIGNER, 1), revocation_list(SIGNER, 2)).serials == {1, 2}


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        shapes.pem((ROOT.certificate,)),
        revocation_list(ROOT) + "more",
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----",
    ],
)
def test_what_is_no_revocation_list(text: str) -> None:
    with pytest.raises(RevocationsError, match=r"X.?509 CRL"):
        parse(text.encode())


def test_a_file_is_told_of_when_it_changes_and_never_for_the_worse(tmp_path: Path) -> None:
    told: list[Sequence[int]] = []
    path = tmp_path / "ca-crl.pem"
    file = RevocationFile(path, lambda found: told.append(sorted(found.serials)))
    contents = [None, revocation_list(ROOT, 1), None, "nonsense", revocation_list(ROOT, 2, 3), ""]
    for content in contents:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        file.look()
        file.look()
    assert told == [[1], [2, 3], []]
