"""Specifications in the form of a call: `uniform(0, 1)`, `bandit(slack_factor=0.1)`, and the words and numbers in
them."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from himl_cli.core.errors import BadUsage
from himl_cli.core.spelling import did_you_mean
from himl_cli.core.sweeps import Scalar

CALL = re.compile(r"\s*(?P<word>[A-Za-z_]\w*)\s*\((?P<inside>.*)\)\s*", re.DOTALL)
INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d*)")
DECIMAL = re.compile(r"[+-]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)")

LONGEST_NUMBER = 250


@dataclass(frozen=True)
class Call:
    """A word with what stands in parentheses behind it: plain values, and those with names."""

    word: str
    values: Sequence[str]
    named: Mapping[str, str]


def parse_call(text: str) -> Call | None:
    """*text* as a call; None where it is none. Values are split at commas, except within double quotes."""
    found = CALL.fullmatch(text)
    if found is None:
        return None
    values: list[str] = []
    named: dict[str, str] = {}
    for part in split_values(found["inside"]) if found["inside"].strip() else []:
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            named[name.strip()] = value.strip()
        else:
            values.append(part)
    return Call(found["word"], values, named)


def split_values(text: str) -> list[str]:
    """The parts between commas, without the spaces around them; in double quotes a comma is part of a value."""
    try:
        (parts,) = csv.reader([text.replace("\n", " ")], skipinitialspace=True, strict=True)
    except csv.Error:
        parts = text.split(",")
    return [part.strip() for part in parts]


def scalar(text: str) -> Scalar:
    """A whole number, a decimal number, or the word as it is: `007`, `true` and `nan` are words, which scripts read as
    they like.

    So is what has more digits than floating point can say.
    """
    if len(text) > LONGEST_NUMBER:
        return text
    if INTEGER.fullmatch(text):
        return int(text)
    if DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def check_names(given: Mapping[str, str], known: Sequence[str], where: str) -> None:
    """Raises BadUsage, which begins with *where*, for a name that is not among the *known* ones."""
    for name in given:
        if name not in known:
            there = f"There are: {', '.join(known)}." if known else "It takes none."
            raise BadUsage(f"{where}: unknown '{name}'.", hint=did_you_mean(name, known) or there)
