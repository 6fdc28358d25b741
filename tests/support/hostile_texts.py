"""Texts that break parsers. A parser must return a value or fail with a one-line error, in limited time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hypothesis import strategies as st

from himl_cli.core.errors import HimlError

SECONDS = 60.0
"""Of processor time, for one text: a hundred times what the slowest parser takes, so that no slow machine needs
them, and what never ends is ended.
"""
SHORT, LONG = 5100, 200_000
"""Characters: those of texts that go everywhere, and those of which a parser that goes over each rest of a text
again makes minutes.
"""

NASTY: Mapping[str, str] = {
    "nothing": "",
    "blanks": " " * LONG + "x",
    "lists in lists": "[" * 3000 + "]" * 3000,
    "lists that are left open": "[" * LONG,
    "objects in objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "parts of parts": ".".join("a" * 20_000),
    "parentheses": "(" * 20_000 + ")" * 20_000,
    "5,000 digits": "9" * 5000,
    "400 digits": "9" * 400,
    "hexadecimal digits": "0x" + "f" * 5000,
    "less than nothing": "-5",
    "digits of others": "٣" * 12,
    "powers and halves": "²½",
    "NaN": "NaN",
    "nan": "nan",
    "Infinity": "-Infinity",
    "inf": ".inf",
    "too much": "1e999",
    "half a character": "a\ud800b",
    "half a character, escaped": '"\\ud800"',
    "NUL": "a\0b",
    "NUL, escaped": '"\\u0000"',
    "controls": "\x01\x1b[31m\x7f\x85\u2028",
    "a mark of order": "\ufeffa",
    "lines": "\n" * 20_000,
    "one line": "x" * 600_000,
    "words": "x " * (LONG // 2),
    "commas": "," * LONG,
    "equals signs": "=" * LONG,
    "colons": ":" * LONG,
    "slashes": "/" * LONG,
    "quotes": '"' * (LONG + 1),
    "escaped quotes": '"' + '\\"' * (LONG // 2),
    "apostrophes": "'" * (LONG + 1),
    "placeholders": "${{" * 5000 + "$[[" * 5000,
    "comments": "#" * LONG,
    "dashes": "-" * LONG,
    "percent signs": "%" * 10_000 + "%ff%00%",
    "addresses": "https://" * 5000,
    "brackets in an address": "https://[::1/a?wsid=[",
    "a port that is none": "https://host:" + "9" * 5000 + "/a",
}
"""By what they are; each is put into every frame of a parser."""

DAMAGED: Mapping[str, bytes] = {
    "no UTF-8": b"a = '\xff\xfe\xfa'",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a": 1}'.encode("utf-16-be"),
    "half of UTF-16": b"\xff\xfea",
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "Latin": '{"é": 1}'.encode("latin-1"),
    "a mark of order": b'\xef\xbb\xbf{"a": 1}',
    "NUL bytes": bytes(10_000),
    "all bytes": bytes(range(256)),
}
"""Files in encodings that nobody expects."""


def framed(*frames: str, takes_long: bool = True) -> dict[str, str]:
    """Each hostile text in *frames*, in place of `@`, by the number of the frame and the name of the text.

    Short texts go into every frame, and each long one into one of them in turn, or into none.
    """
    found: dict[str, str] = {}
    for turn, (name, text) in enumerate(NASTY.items()):
        long_ones = [turn % len(frames)] if takes_long else []
        chosen = range(len(frames)) if len(text) <= SHORT else long_ones
        found.update({f"{number}: {name}": frames[number].replace("@", text) for number in chosen})
    return found


def garbage(signs: str) -> st.SearchStrategy[str]:
    """Short texts of *signs*, of pieces of hostile texts, and of any characters including surrogates."""
    pieces = st.sampled_from([text[:300] for text in NASTY.values()])
    return st.lists(
        st.text(signs, max_size=12) | pieces | st.text(st.characters(codec=None), max_size=4), max_size=6
    ).map("".join)


def stands(parse: Callable[[Any], object], given: Any) -> HimlError | None:
    """Parse *given*, which must return or raise a HimlError with a message within SECONDS. Returns the error, if
    any.
    """
    try:
        with within(SECONDS):
            parse(given)
    except HimlError as err:
        told = err
    else:
        return None
    assert str(told).strip()
    assert type(told) is not HimlError
    return told


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Add the name of the text to failures within the context."""
    try:
        yield
    except BaseException as err:
        err.add_note(f"the text: {where}") if hasattr(err, "add_note") else None
        raise


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the context takes more processor time, immediately if the system has an alarm for it."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it took more than {seconds} s")

    has_alarm = hasattr(signal, "setitimer")
    if has_alarm:
        former = signal.signal(signal.SIGVTALRM, give_up)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    begun = time.thread_time()
    try:
        yield
    finally:
        if has_alarm:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, former)
    assert time.thread_time() - begun < seconds
