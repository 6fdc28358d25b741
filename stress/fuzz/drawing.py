"""Single examples of a strategy, for whoever does not let Hypothesis run what they are for."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

Example = TypeVar("Example")
DRAWN = 6
"""Examples of which the last one is taken: the first ones are the simplest there are."""


def drawn(strategy: SearchStrategy[Example], number: int) -> Example:
    """One example, the same for the same *number*."""
    found: list[Example] = []
    once = settings(max_examples=DRAWN, database=None, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))

    def keep(example: Example) -> None:
        found.append(example)

    seed(number)(once(given(strategy)(keep)))()
    return found[-1]
