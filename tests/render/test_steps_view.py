"""The tree of a pipeline's steps, of tags alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.render.run_views import steps_view
from tests.services.aggregation.records import run


def tree(waits: Mapping[str, Sequence[str]]) -> list[str]:
    """The first column, with its indents; the name of a step is its key."""
    steps = [replace(run(f"p_{key}", tags={STEP: key, STEP_AFTER: ",".join(waited)}), display_name=key) for key, waited in waits.items()]
    lines = list(steps_view(steps, {}))[3:]
    return [line[: len(line) - len(line.lstrip())] + line.split()[0] for line in lines]


def test_many_layers_in_which_each_step_waits_for_several() -> None:
    layers = 40
    waits = {f"s{layer}.{number}": [f"s{layer - 1}.{each}" for each in range(3)] if layer else [] for layer in range(layers) for number in range(3)}
    found = tree(waits)
    assert sorted(line.strip() for line in found) == sorted(waits)
    first = len(found[0]) - len(found[0].lstrip())
    assert max(len(line) - len(line.lstrip()) for line in found) == first + 2 * (layers - 1)


def test_step_is_shown_below_last_step_it_depends_on() -> None:
    found = tree({"a": [], "b": ["a"], "c": ["b"], "d": ["a", "c"]})
    assert [line.strip() for line in found] == ["a", "b", "c", "d"]
    assert [len(line) - len(line.lstrip()) for line in found] == sorted(len(line) - len(line.lstrip()) for line in found)


def test_steps_in_cycle_are_all_shown_and_others_keep_place() -> None:
    found = tree({"a": [], "x": ["y"], "y": ["x"], "b": ["a", "x"]})
    assert sorted(line.strip() for line in found) == ["a", "b", "x", "y"]
    places = {line.strip(): place for place, line in enumerate(found)}
    indents = {line.strip(): len(line) - len(line.lstrip()) for line in found}
    assert places["b"] == places["a"] + 1
    assert indents["b"] == indents["a"] + 2
