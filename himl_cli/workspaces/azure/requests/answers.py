"""Answers of the services that do not have the form they should have: one error for all of them, and pages that come to
an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from himl_cli.core.errors import ServiceFailed


def unexpected(url: str, what: str) -> ServiceFailed:
    """The error for an answer of *url* in which *what* (`it holds no run`) is not as it should be."""
    return ServiceFailed(
        f"{urlsplit(url).hostname} answered with something unexpected: {what}.",
        hint="A proxy of this network may be in between; else try again later, or with a newer himl.",
    )


@contextmanager
def understood(url: str, what: str) -> Iterator[None]:
    """Where *what*, an answer of *url*, is taken apart: one of another form raises ServiceFailed. Holds no requests."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as err:
        raise unexpected(url, f"{what} has another form than himl knows") from err


def object_of(answer: Any, url: str, what: str) -> Mapping[str, Any]:
    """*answer*, which has to be a JSON object. Raises ServiceFailed where it is none: it holds no *what*."""
    if not isinstance(answer, Mapping):
        raise unexpected(url, f"it holds no {what}")
    return answer


class Page(NamedTuple):
    """One page of a list, `answer` is all of it; `items` are JSON objects."""

    items: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any]
    has_more: bool


def pages(
    ask: Callable[[Any], Any], url: str, what: str, *, follow: Callable[[str], Any] | None = None
) -> Iterator[Page]:
    """The pages of the list of *what* at *url*, each asked for when it is wanted.

    *ask* gets the first page (None), and each that follows by the `continuationToken` of the one before, a text, else
    by its `nextSkip`, a number; *follow* gets those that a page names by a `nextLink`.

    Raises ServiceFailed for a page that is none, and where a page is named a second time: that list would never end.
    """
    answer = ask(None)
    passed: set[str | int] = set()
    while True:
        token, link = _next(answer, url, what, follow is not None)
        items = _items(answer, url, what)
        following = token or link
        if isinstance(token, int) and not items:  # a number may be told behind the last page, too
            following = ""
        yield Page(items, answer, bool(following))
        if not following:
            return
        if following in passed:
            raise unexpected(url, f"its list of {what} does not end")
        passed.add(following)
        answer = ask(token) if token or follow is None else follow(link)


def resources(get: Callable[..., Any], url: str, what: str, query: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """The resources in resource manager's list of *what* at *url*, its pages asked for by *get* (as `Rest.get`) as they
    are consumed.

    Raises ServiceFailed for a list that is none, or that goes on elsewhere, and what *get* raises.
    """

    def follow(link: str) -> Any:
        with understood(url, f"the link to more {what}"):
            is_strange = urlsplit(link).hostname != urlsplit(url).hostname
        if is_strange:
            raise ServiceFailed(
                f"The list of {what} goes on at a strange place.", hint="Is a proxy in between that changes answers?"
            )
        return get(link)

    for page in pages(lambda _: get(url, params=query), url, what, follow=follow):
        yield from page.items


def _items(answer: Any, url: str, what: str) -> Sequence[Mapping[str, Any]]:
    """The list in *answer*, which is there even when it is empty."""
    if not isinstance(answer, Mapping) or "value" not in answer:
        raise unexpected(url, f"it holds no list of {what}")
    items = answer["value"] if answer["value"] is not None else []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise unexpected(url, f"it holds no list of {what}")
    return items


def _next(answer: Any, url: str, what: str, has_links: bool) -> tuple[str | int, str]:
    """The token or number, else the link, of the page behind *answer*; empty where there is none."""
    if not isinstance(answer, Mapping):
        raise unexpected(url, f"it holds no list of {what}")
    token = answer.get("continuationToken") or answer.get("nextSkip") or ""
    link = (answer.get("nextLink") or "") if has_links else ""
    if not isinstance(token, str | int) or not isinstance(link, str):
        raise unexpected(url, f"its list of {what} does not tell how it goes on")
    return token, link
