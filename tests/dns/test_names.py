"""Which names a question may mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.ztunnel.dns.names import Alias, aliases, candidates

DOMAIN = "cluster.local"
label = st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True).filter(
    lambda text: text not in ("svc", "cluster", "local")
)
names = st.lists(label, min_size=1, max_size=6).map(".".join)


@pytest.mark.parametrize("asked", ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"])
def test_every_way_to_write_a_service(asked: str) -> None:
    assert "cart.shop.svc.cluster.local" in [alias.name for alias in aliases(asked, "shop", DOMAIN)]


@pytest.mark.parametrize("asked", ["db-0.db", "db-0.db.shop", "db-0.db.shop.svc", "db-0.db.shop.svc.cluster.local"])
def test_every_way_to_write_a_host_behind_a_service(asked: str) -> None:
    assert "db-0.db.shop.svc.cluster.local" in [alias.name for alias in aliases(asked, "shop", DOMAIN)]


@pytest.mark.parametrize("appended", ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"])
def test_a_search_domain_is_stripped_and_the_rest_is_the_alias(appended: str) -> None:
    found = aliases(f"api.example.com.{appended}", "shop", DOMAIN)
    assert Alias("api.example.com", "api.example.com") in found


def test_another_namespaces_search_domain_is_none_of_ours() -> None:
    found = [alias.name for alias in aliases("api.example.com.web.svc.cluster.local", "shop", DOMAIN)]
    assert "api.example.com" not in found


def test_a_name_in_full_that_is_no_service_stays_what_it_is() -> None:
    assert aliases("www.example.com", "shop", DOMAIN)[0] == Alias("www.example.com")
    assert [alias.name for alias in aliases("a.b.example.com", "shop", DOMAIN)] == ["a.b.example.com"]


def test_wildcards_from_the_narrowest() -> None:
    assert list(candidates("www.shop.example.com")) == [
        "www.shop.example.com",
        "*.shop.example.com",
        "*.example.com",
        "*.com",
    ]
    assert list(candidates("localhost")) == ["localhost"]


@settings(max_examples=30, deadline=None)
@given(names, label)
def test_the_literal_reading_is_the_first_and_none_comes_twice(asked: str, namespace: str) -> None:
    found = aliases(asked, namespace, DOMAIN)
    assert found[0] == Alias(asked)
    assert len({alias.name for alias in found}) == len(found)


@settings(max_examples=30, deadline=None)
@given(label, label, label)
def test_what_a_kubernetes_resolver_tries_leads_to_the_same_service(service: str, namespace: str, client: str) -> None:
    """Whatever of its search list the client's resolver has appended, the name that it started from is found."""
    full = f"{service}.{namespace}.svc.{DOMAIN}"
    for written in (f"{service}.{namespace}", f"{service}.{namespace}.svc", full):
        for search in ("", f".{client}.svc.{DOMAIN}", f".svc.{DOMAIN}", f".{DOMAIN}"):
            assert full in [alias.name for alias in aliases(written + search, client, DOMAIN)]


@settings(max_examples=30, deadline=None)
@given(names, label)
def test_a_stripped_name_is_where_the_question_begins(asked: str, namespace: str) -> None:
    for alias in aliases(f"{asked}.{namespace}.svc.{DOMAIN}", namespace, DOMAIN):
        if alias.stripped:
            assert f"{asked}.{namespace}.svc.{DOMAIN}".startswith(f"{alias.stripped}.")
            assert alias.name.startswith(alias.stripped)


@settings(max_examples=30, deadline=None)
@given(names)
def test_every_wildcard_covers_the_name(name: str) -> None:
    literal, *wildcards = candidates(name)
    assert literal == name
    assert len(wildcards) == name.count(".")
    assert all(name.endswith(wildcard.removeprefix("*")) for wildcard in wildcards)
