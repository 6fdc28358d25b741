"""Input for parsers: valid documents with some changed parts, which reach their inner code, and plain garbage."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from himl_cli.core.errors import BadUsage
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress

ADDRESS = WorkspaceAddress("0f0f0f0f-0000-4000-8000-000000000000", "group", "ws", PUBLIC, "fuzzing")
JOB = "train_1700000000_0badcafe"
LONGEST = 200_000  # characters of a text; repeats end there
EDITS = st.sampled_from([0, 1, 1, 1, 2, 2, 4])
SIGNS = (
    "",
    " ",
    "\n",
    "\r",
    "\t",
    "\0",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
    "\u202e",
    "\ud800",
    "\udc80",
    "\U0001f600",
    "٣",
    "²",
    "½",
    "e\u0301",
)
PUNCTUATION = (
    *"'\"\\/:;,.=#$%&*|<>!?@^~`+-_()[]{}",
    "..",
    "://",
    "%00",
    "%zz",
    "{{",
    "}}",
    "${{",
    "$(",
    "\\u0000",
    "\\ud800",
    "/../",
    "//",
    "<<",
    "- ",
    ": ",
)
NUMBERS: tuple[str, ...] = (
    *(
        "0",
        "-1",
        "-0",
        "007",
        "1e999",
        "-1e-999",
        "1.5",
        "NaN",
        "nan",
        "inf",
        "-Infinity",
        "2147483648",
        "9223372036854775808",
        "9" * 19,
    ),
    *("9" * 400, "9" * 5000, "0x" + "f" * 300, "1_000", "1e5", "3" + "0" * 308, "true", "null", "None"),
)
REPEATS = (2, 10, 101, 3000, 30_000)
LEAVES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        -(2**63) - 1,
        10**20,
        10**400,
        0.0,
        -0.0,
        1.5,
        1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
    ),
    *(
        "",
        " ",
        "a",
        "\0",
        "\n",
        "\x1b[2J",
        "a\ud800b",
        "\udc80",
        "٣",
        "NaN",
        "-1",
        "1e999",
        "9" * 400,
        "9" * 5000,
        "x" * 3000,
        "{}",
        "[]",
        "null",
    ),
    *(
        "../..",
        "/etc/passwd",
        "https://[::1",
        "https://h:99999999/a?sig=s",
        "2026-13-45T99:99:99Z",
        "0001-01-01T00:00:00",
    ),
    *("9999-12-31T23:59:59.9999999-14:00", [], {}, [[]], [None], {"": None}, [{}]),
)


def lines_of(*words: str) -> st.SearchStrategy[str]:
    pieces = (
        st.sampled_from((*words, *words, *SIGNS, *PUNCTUATION, *NUMBERS))
        | st.text(max_size=8)
        | st.characters(categories=["Cs"])
    )
    return st.lists(pieces, max_size=12).map("".join)


def texts(samples: Sequence[str], words: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """*samples* with parts removed, doubled, repeated, or exchanged, and garbage made of *words*. One in ten is
    unchanged.
    """
    return st.one_of(*[_edited(samples, words)] * 6, lines_of(*words), st.text(max_size=60))


def contents(samples: Sequence[str], words: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    encoded = texts(samples, words).map(lambda text: text.encode("utf-8", "surrogatepass"))
    other = texts(samples).map(lambda text: text.encode("utf-16", "surrogatepass"))
    return st.one_of(*[encoded] * 4, damaged([sample.encode() for sample in samples]), other)


def values() -> st.SearchStrategy[Any]:
    """All JSON values, and the additional numbers of Python's JSON."""
    leaves = st.sampled_from(LEAVES) | st.integers() | st.floats() | st.text(max_size=12)
    return st.recursive(
        leaves,
        lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=6), below, max_size=4),
        max_leaves=8,
    )


def documents(samples: Sequence[Any]) -> st.SearchStrategy[Any]:
    """*samples*, JSON values, with some values or keys changed or removed."""
    return st.one_of(*[_other_document(samples)] * 5, values())


def json_texts(samples: Sequence[Any]) -> st.SearchStrategy[str]:
    written = documents(samples).map(json.dumps)
    plain = documents(samples).map(lambda value: json.dumps(value, ensure_ascii=False))
    return st.one_of(
        written,
        written,
        plain,
        _edited([json.dumps(sample) for sample in samples], ("{", "}", "[", "]", ":", ",", '"')),
        nested(),
    )


def json_files(samples: Sequence[Any]) -> st.SearchStrategy[bytes]:
    encoded = json_texts(samples).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return st.one_of(encoded, encoded, encoded, damaged([json.dumps(sample).encode() for sample in samples]))


def nested() -> st.SearchStrategy[str]:
    def written(pair: tuple[str, str], depth: int, inside: str, is_closed: bool) -> str:
        return pair[0] * depth + inside + pair[1] * depth * is_closed

    pairs = st.sampled_from([("[", "]"), ('{"a":', "}"), ('{"value":[', "]}")])
    return st.builds(
        written,
        pairs,
        st.sampled_from([1, 50, 99, 101, 500, 3000, 50_000]),
        st.sampled_from(["", "1", '"a"', "{}"]),
        st.booleans(),
    )


@st.composite
def damaged(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """*samples* with changed bytes and numbers, with parts doubled, removed, or cut off. Some are unchanged."""
    data = bytearray(draw(st.sampled_from(list(samples))))
    for _ in range(draw(EDITS)):
        start = draw(st.integers(0, min(len(data), 600))) if draw(st.booleans()) else draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([1, 2, 4, 8, 16, 200]))
        action = draw(st.integers(0, 5))
        if action == 0:
            data[start : start + size] = draw(st.binary(min_size=1, max_size=size))
        elif action == 1:
            data[start : start + size] = draw(st.sampled_from([0, 1, 0x7F, 0xFF])).to_bytes(1, "big") * size
        elif action == 2:
            order, width = draw(st.sampled_from(["little", "big"])), min(size, 8)
            data[start : start + width] = (draw(st.integers(0, 2**64 - 1)) % 256**width).to_bytes(
                width, "big" if order == "big" else "little"
            )
        elif action == 3:
            del data[start : start + size]
        elif action == 4:
            data[start:start] = data[start : start + size]
        elif len(data) > 1:
            del data[draw(st.integers(0, len(data) - 1)) :]
    return bytes(data)


@st.composite
def _edited(draw: st.DrawFn, samples: Sequence[str], words: Sequence[str]) -> str:
    text: str = draw(st.sampled_from(list(samples)))
    for _ in range(draw(EDITS)):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20, 100])))
        text = text[:start] + _piece(draw, text, text[start:end], words) + text[end:]
    return text[:LONGEST]


def _piece(draw: st.DrawFn, text: str, there: str, words: Sequence[str]) -> str:
    action = draw(st.integers(0, 7))
    if action < 4:
        return draw((st.just(""), st.sampled_from(SIGNS), st.sampled_from(NUMBERS), st.text(max_size=6))[action])
    if action == 4:
        token: str = draw(st.sampled_from((*PUNCTUATION, *words, "a", "\n", " ", there or "a")))
        return (token * draw(st.sampled_from(REPEATS)))[:LONGEST]
    if action == 5:
        return there + str(draw(st.sampled_from([line + "\n" for line in text.splitlines()[:50]] or [text])))
    last: str = draw(st.sampled_from((*PUNCTUATION, *words)))
    return last


@st.composite
def _other_document(draw: st.DrawFn, samples: Sequence[Any]) -> Any:
    document = copy.deepcopy(draw(st.sampled_from(list(samples))))
    for _ in range(draw(EDITS)):
        places = list(_places(document))
        if not places:
            return draw(values())
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.integers(0, 7))
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, dict):
            holder[
                draw(st.sampled_from(["", "\0", "name", "value", "key", "\ud800", "x" * 300]) | st.text(max_size=5))
            ] = holder.pop(key)
        elif action == 2:
            holder[key] = [holder[key]] * draw(st.sampled_from([1, 2, 50]))
        elif action == 3:
            holder[key] = {str(key): holder[key]}
        elif action == 4:
            holder[key] = draw(values())
        elif action == 5:
            holder[key] = str(holder[key])
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(LEAVES)))
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """The positions of values: their container, and their key or index in it."""
    pairs: Iterable[tuple[Any, Any]] = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else [])
    )
    for key, value in pairs:
        yield document, key
        yield from _places(value)


@dataclass(frozen=True)
class Target:
    """A parser. `examples` returns the strategy for the input of `run`. `refusals` are its documented errors. `name` is
    `group/target`.

    `takes_some`: it must accept some of the examples, since otherwise none would reach its inner code.
    """

    name: str
    examples: Callable[[], SearchStrategy[Any]]
    run: Callable[[Any], object]
    refusals: tuple[type[Exception], ...] = (BadUsage,)
    takes_some: bool = True


def text_target(
    name: str, samples: Sequence[str], run: Callable[[str], object], refusals: tuple[type[Exception], ...] = (BadUsage,)
) -> Target:
    return Target(name, partial(texts, samples), run, refusals)


def written(name: str, content: bytes) -> Path:
    path = Path.cwd() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


Example = TypeVar("Example")


def drawn(strategy: SearchStrategy[Example], number: int) -> Example:
    """One example, which *number* determines. It is the last of six, since the first ones are the simplest."""
    found: list[Example] = []
    once = settings(
        max_examples=6, database=None, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
    )

    def keep(example: Example) -> None:
        found.append(example)

    seed(number)(once(given(strategy)(keep)))()
    return found[-1]
