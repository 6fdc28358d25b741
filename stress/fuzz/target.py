"""What a parser is to the fuzzing: what it is given, and how it may refuse that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

from himl_cli.core.errors import BadUsage


@dataclass(frozen=True)
class Target:
    """`examples` gives the strategy of what `run` is given; `refusals` are the errors that are documented of it. `name` is `group/target`.

    `takes_some`: some of the examples are to be taken, else none of them came beyond the parser's door.
    """

    name: str
    examples: Callable[[], SearchStrategy[Any]]
    run: Callable[[Any], object]
    refusals: tuple[type[Exception], ...] = (BadUsage,)
    takes_some: bool = True


def written(name: str, content: bytes) -> Path:
    """*content* as the file *name* in the example's folder."""
    path = Path.cwd() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
