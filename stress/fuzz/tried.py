"""What came of the examples of one case."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """How many examples were tried, of which so many were refused; `why` is empty where the parser took or refused them all as it should.

    `is_met` is false where all were refused of a parser that is to take some.
    """

    examples: int
    refused: int
    why: str = ""
    is_met: bool = True
