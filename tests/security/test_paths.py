"""Path normalisation and templates, against tables and slow references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.paths import normalize, path_predicate, template_problem

raw_paths = st.lists(
    st.sampled_from(("/", "\\", ".", "..", "a", "b", "%2F", "%2f", "%5C", "%2e", "%61", "%25", "?", "#")), max_size=8
).map(lambda parts: "/" + "".join(parts))


@pytest.mark.parametrize(
    ("raw", "none", "base", "merge", "decode"),
    [
        ("/a?x=/../b", "/a", "/a", "/a", "/a"),
        ("/a#b", "/a", "/a", "/a", "/a"),
        ("/a/./b", "/a/./b", "/a/b", "/a/b", "/a/b"),
        ("/a/../b", "/a/../b", "/b", "/b", "/b"),
        ("/../..", "/../..", "/", "/", "/"),
        ("/a/..", "/a/..", "/", "/", "/"),
        ("/a/b/.", "/a/b/.", "/a/b/", "/a/b/", "/a/b/"),
        ("/a\\b", "/a\\b", "/a/b", "/a/b", "/a/b"),
        ("/%61", "/%61", "/a", "/a", "/a"),
        ("/%2e%2E/x", "/%2e%2E/x", "/x", "/x", "/x"),
        ("//a", "//a", "//a", "/a", "/a"),
        ("/a//../b", "/a//../b", "/a/b", "/a/b", "/a/b"),
        ("/a%2fb", "/a%2fb", "/a%2fb", "/a%2fb", "/a/b"),
        ("/a%5Cb", "/a%5Cb", "/a%5Cb", "/a%5Cb", "/a/b"),
        ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
        ("/a%2f..%2fb", "/a%2f..%2fb", "/a%2f..%2fb", "/a%2f..%2fb", "/b"),
        ("/a%20b", "/a%20b", "/a%20b", "/a%20b", "/a%20b"),
        ("/a|b", "/a|b", "/a%7Cb", "/a%7Cb", "/a%7Cb"),
        ("//", "//", "//", "//", "//"),
        ("/.///", "/.///", "///", "//", "//"),
        ("/%2f", "/%2f", "/%2f", "/%2f", "//"),
    ],
)
def test_options(raw: str, none: str, base: str, merge: str, decode: str) -> None:
    options = ("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")
    assert tuple(normalize(raw, option) for option in options) == (none, base, merge, decode)


def slow_base(raw: str) -> str:
    """One character at a time, with an output that backs up at dot segments."""
    path = ""
    index = 0
    while index < len(raw) and raw[index] not in "?#":
        char, step = raw[index], 1
        if char == "%" and raw[index + 1 : index + 3].lower() in ("2e", "61"):
            char, step = {"2e": ".", "61": "a"}[raw[index + 1 : index + 3].lower()], 3
        path += "/" if char == "\\" else char
        index += step
    out = ""
    for segment in path.split("/")[1:]:
        if segment == "..":
            out = out[: out.rfind("/")] if "/" in out else ""
        elif segment != ".":
            out += "/" + segment
    ends_in_dots = path.rsplit("/", 1)[1] in (".", "..")
    return out + "/" if ends_in_dots or not out else out


@given(raw_paths)
def test_base_agrees_with_the_slow_reference(raw: str) -> None:
    assert normalize(raw, "BASE") == slow_base(raw)


@given(raw_paths, st.sampled_from(("MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")))
def test_merged_paths_hold_nothing_ambiguous(raw: str, option: str) -> None:
    path = normalize(raw, option)
    # Envoy leaves two of a path of slashes alone.
    assert "//" not in path or path == "//"
    assert "\\" not in path
    assert not {"..", "."} & set(path.split("/"))
    if option == "DECODE_AND_MERGE_SLASHES":
        assert "%2f" not in path.lower()
        assert "%5c" not in path.lower()


@given(raw_paths)
def test_normalising_twice_changes_nothing_more(raw: str) -> None:
    once = normalize(raw, "DECODE_AND_MERGE_SLASHES")
    assert normalize(once, "DECODE_AND_MERGE_SLASHES") == once


@pytest.mark.parametrize(
    "template",
    ["/{*}", "/{**}", "{*}", "/a/{*}/b/{**}", "/a/{**}/", "/a/{**}/b.html", "/a-b_c~!$&'()+,;=:@/{*}", "/%2F/{*}"],
)
def test_valid_templates(template: str) -> None:
    assert template_problem(template) is None


@pytest.mark.parametrize(
    "template",
    [
        "/{**}/{*}",
        "/{**}/{**}",
        "/a{*}",
        "/{*}b",
        "/{*}{*}",
        "/{*}/*",
        "/{*}/{b}",
        "/{*}/a b",
        "/{**}/a{*}",
        "/{*}/%2",
        '/{*}/"',
    ],
)
def test_malformed_templates(template: str) -> None:
    assert template_problem(template) is not None


def slow_template(pattern: str, path: str) -> bool:
    """By recursion over operators."""
    if not pattern:
        return not path
    if pattern.startswith("{**}"):
        return any(slow_template(pattern[4:], path[i:]) for i in range(len(path) + 1))
    if pattern.startswith("{*}"):
        end = path.find("/") if "/" in path else len(path)
        return any(slow_template(pattern[3:], path[i:]) for i in range(1, end + 1))
    return bool(path) and path[0] == pattern[0] and slow_template(pattern[1:], path[1:])


@given(
    st.sampled_from(("/a/{*}", "/{*}/b", "/{**}", "/a/{**}", "/a/{*}/{**}", "/{**}/b", "/a/{**}/b.c")),
    st.text("ab/.c", max_size=7).map(lambda text: "/" + text),
)
def test_templates_agree_with_the_slow_reference(pattern: str, path: str) -> None:
    assert path_predicate(pattern)(path) == slow_template(pattern, path)
