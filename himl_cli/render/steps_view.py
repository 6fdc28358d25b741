"""The steps of a pipeline as a tree: each below a step that it waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import hyperparameters_of
from himl_cli.render.aligned import aligned
from himl_cli.render.durations import duration_text
from himl_cli.render.errors import one_line
from himl_cli.render.style import styled

LONGEST_NAME = 40
"""Longer ones would break the lines of all; `runs show STEP-RUN` has them whole."""


class _Line(NamedTuple):
    name: str
    status: str
    duration: str
    run_id: str
    after: str


def is_pipeline(children: Sequence[Run]) -> bool:
    """Whether *children* are steps."""
    return any(STEP in child.tags for child in children)


def steps_view(children: Sequence[Run], below: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """A heading and a line a step; a step that waited for several stands below the last of them, and names all."""
    lines = list(_tree(children, below, ""))
    has_after = any(line.after for line in lines)
    yield ""
    yield styled("Steps", "bold")
    yield from aligned(
        [("NAME", "STATUS", "DURATION", "ID", "WAITED FOR" if has_after else ""), *lines],
        right=(2,),
        ranks=(1, 1, 3, 2, 4),
        cut=(0, 4),
    )


def _tree(children: Sequence[Run], below: Mapping[str, Sequence[Run]], indent: str) -> Iterator[_Line]:
    keys = {child.tags.get(STEP, child.id): child for child in children}
    waits = {
        key: [each for each in child.tags.get(STEP_AFTER, "").split(",") if each in keys] for key, child in keys.items()
    }
    depths = _depths(waits)
    over = {key: max(waited, key=lambda each: depths[each]) if waited else "" for key, waited in waits.items()}
    over = {key: parent if _has_root(key, over) else "" for key, parent in over.items()}
    yield from _branch("", keys, over, waits, below, indent)


def _branch(
    root: str,
    keys: Mapping[str, Run],
    over: Mapping[str, str],
    waits: Mapping[str, Sequence[str]],
    below: Mapping[str, Sequence[Run]],
    indent: str,
) -> Iterator[_Line]:
    for key, parent in over.items():
        if parent != root:
            continue
        run = keys[key]
        after = ", ".join(_name(keys[each], each) for each in waits[key]) if len(waits[key]) > 1 else ""
        yield _Line(f"{indent}{_name(run, key)}", run.status.value, duration_text(run.duration), run.id, after)
        inside = below.get(run.id, ())
        if any(hyperparameters_of(each.tags) for each in inside):
            counts = Counter(each.status.value for each in inside)
            yield _Line(
                f"{indent}  {len(inside)} trials",
                ", ".join(f"{count} {status}" for status, count in counts.most_common()),
                "",
                "",
                "",
            )
        elif inside:
            yield from _tree(inside, below, f"{indent}  ")
        yield from _branch(key, keys, over, waits, below, f"{indent}  ")


def _name(run: Run, key: str) -> str:
    name = one_line(run.display_name or key)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _has_root(key: str, over: Mapping[str, str]) -> bool:
    """Whether the way up from *key* ends: tags may say that steps wait for each other in a circle."""
    for _ in over:
        key = over[key]
        if not key:
            return True
    return False


def _depths(waits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many steps stand above each one on its longest way up; 0 for those that wait for a circle."""
    left = {key: set(waited) for key, waited in waits.items()}
    followers: dict[str, list[str]] = {key: [] for key in waits}
    for key, waited in left.items():
        for each in waited:
            followers[each].append(key)
    depths = dict.fromkeys(waits, 0)
    free = [key for key, waited in left.items() if not waited]
    for key in free:  # grows on the way
        for each in followers[key]:
            depths[each] = max(depths[each], depths[key] + 1)
            left[each].discard(key)
            if not left[each]:
                free.append(each)
    return {key: 0 if left[key] else depths[key] for key in waits}
