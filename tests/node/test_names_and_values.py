"""Small pure pieces: image references, accounts, quantities, expansion."""

import inspect

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.node.images import names, users
from tulle.cluster.node.pods import expansion, quantity, spec

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("curlimages/curl", "docker.io/curlimages/curl:latest"),
        ("docker.io/istio/examples-helloworld-v1:1.0", "docker.io/istio/examples-helloworld-v1:1.0"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("registry.istio.io/release/pilot:1.30", "registry.istio.io/release/pilot:1.30"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("localhost/a", "localhost/a:latest"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}"),
    ],
)
def test_references_are_completed(text: str, full: str) -> None:
    assert str(names.parse(text)) == full


@pytest.mark.parametrize("text", ["", "Nginx", "a//b", "nginx:", "nginx@sha256:12", "-a", "a b", "a/../b"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(names.ImageNameError, match="couldn't parse image name"):
        names.parse(text)


@given(st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}(:[a-z0-9]{1,6})?", fullmatch=True))
def test_a_completed_reference_is_complete(text: str) -> None:
    once = str(names.parse(text))
    assert str(names.parse(once)) == once


PASSWD = "root:x:0:0:root:/root:/bin/sh\ncurl_user:x:100:101:c:/home/curl_user:/bin/sh\nbroken\n"
GROUP = "root:x:0:\ncurl_group:x:101:\nextra:x:200:other,curl_user\n"


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("", users.Account(0, 0, (), "/root")),
        ("curl_user", users.Account(100, 101, (200,), "/home/curl_user")),
        ("100", users.Account(100, 101, (200,), "/home/curl_user")),
        ("4242", users.Account(4242, 0, (), "")),
        ("100:extra", users.Account(100, 200, (), "/home/curl_user")),
        ("7:8", users.Account(7, 8, (), "")),
    ],
)
def test_users_are_looked_up_in_the_image(user: str, account: users.Account) -> None:
    assert users.resolve(user, PASSWD, GROUP) == account


@pytest.mark.parametrize("user", ["nobody", "root:nogroup"])
def test_unknown_names_are_refused(user: str) -> None:
    with pytest.raises(users.UnknownUserError, match="no matching entries"):
        users.resolve(user, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("text", "divisor", "value"),
    [
        ("100m", 1, 1),
        ("100m", "1m", 100),
        ("128Mi", "1Mi", 128),
        ("1.5", "1m", 1500),
        ("1e3", 1, 1000),
        ("1E", "1P", 1000),
        ("2Ki", 1, 2048),
    ],
)
def test_quantities(text: str, divisor: str | int, value: int) -> None:
    assert quantity.rounded_up(text, divisor) == value


@pytest.mark.parametrize("text", ["", "abc", "Mi", "1Q"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity.parse(text)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y", "x1y"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $", "$A $"),
        ("$()", "$()"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expansion.expand(text, {"A": "1"}) == expanded


@given(st.text(alphabet="ab()", max_size=20))
def test_text_without_a_dollar_stays(text: str) -> None:
    assert expansion.expand(text, {"a": "1"}) == text


@pytest.mark.parametrize("name", [n for n, p in inspect.getmembers(spec, inspect.isclass) if issubclass(p, spec.Base)])
def test_what_the_api_does_not_insist_on_reads_as_empty(name: str) -> None:
    part = getattr(spec, name)
    assert isinstance(msgspec.convert({}, part), part)
