"""Targets that read files which people write: samples with other words in them, or with other values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

from stress.fuzz.strategies import contents, documents
from stress.fuzz.target import Target

Row = tuple[str, Callable[[Any], object], Sequence[str], Sequence[str], tuple[type[Exception], ...]]


def text_targets(rows: Sequence[Row]) -> list[Target]:
    """A target of each row: its name, parser, samples, words and refusals."""
    return [Target(f"files/{name}", _contents_of(samples, words), run, refusals) for name, run, samples, words, refusals in rows]


def values_target(name: str, run: Callable[[bytes], object], samples: Sequence[str]) -> Target:
    """One of YAML files in which values are exchanged, not signs: JSON is YAML."""
    return Target(f"files/{name}_values", _yaml_of(samples), run)


def _yaml_of(samples: Sequence[str]) -> Callable[[], st.SearchStrategy[bytes]]:
    return lambda: documents([yaml.safe_load(sample) for sample in samples]).map(_dumped)


def _dumped(document: Any) -> bytes:
    return json.dumps(document, default=str).encode()


def _contents_of(samples: Sequence[str], words: Sequence[str]) -> Callable[[], st.SearchStrategy[bytes]]:
    return lambda: contents(samples, words)
