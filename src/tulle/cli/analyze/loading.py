"""What is analyzed: a cluster, YAML, or YAML as if it were applied to the cluster; and what of it cannot even be read."""

from __future__ import annotations

from collections.abc import Iterable

from tulle.cli.analyze.messages import Message
from tulle.cli.explain import world as worlds
from tulle.cli.explain.documents import Document, InputError
from tulle.cli.explain.objects import records
from tulle.cli.explain.world import World


def over(cluster: Iterable[Document], files: Iterable[Document]) -> tuple[Document, ...]:
    """The cluster's objects, replaced and added to by those of the files."""
    return tuple({document.key: document for document in (*cluster, *files)}.values())


def sound(documents: Iterable[Document]) -> tuple[tuple[Document, ...], tuple[Message, ...]]:
    """The documents that istiod could read, and a message (IST0106) for each other one."""
    kept: list[Document] = []
    messages: list[Message] = []
    for document in documents:
        try:
            records(document, admitted=True)
        except InputError as error:
            messages.append(Message("IST0106", document.key, f"Schema validation error: {error}"))
        else:
            kept.append(document)
    return tuple(kept), tuple(messages)


def world(documents: Iterable[Document], profile: str, *, live: bool) -> World:
    """The world to analyze. Invalid policies are in it as istiod takes them. Raises InputError."""
    return worlds.live(documents) if live else worlds.offline(documents, profile, admitted=True)
