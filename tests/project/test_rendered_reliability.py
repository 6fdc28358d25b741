"""docs/reliability.md is what its raw results give, and those are of whole runs in which nothing was lost."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from stress.document import PartResults, read_parts, render
from stress.plan import PARTS
from stress.records import Outcome, Record

PROJECT = Path(__file__).parents[2]
PARTS_BY_NAME = {part.name: part for part in PARTS}
RESULTS, DOCUMENT = PROJECT / "stress" / "results", PROJECT / "docs" / "reliability.md"
MAKES = {"reliability": "scripts/stress", "performance": "scripts/bench"}


@pytest.fixture(scope="module")
def parts() -> Mapping[str, PartResults]:
    return read_parts(RESULTS)


@pytest.fixture(params=list(PARTS_BY_NAME))
def part(request: pytest.FixtureRequest, parts: Mapping[str, PartResults]) -> PartResults:
    """What came of each part of the plan."""
    if request.param not in parts:
        pytest.fail(f"stress/results lacks {request.param}.jsonl: run 'scripts/stress --full --only {request.param}'")
    return parts[request.param]


def test_the_document_is_what_the_results_make() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(RESULTS)


@pytest.mark.parametrize("name", MAKES)
def test_scripts_and_modules_named_in_figure_documents_exist(name: str) -> None:
    text = (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    scripts, modules = set(re.findall(r"scripts/\w+", text)), set(re.findall(r"python -m ((?:stress|benchmarks)[\w.]*\w)", text))
    assert MAKES[name] in scripts
    assert [one for one in scripts if not os.access(PROJECT / one, os.X_OK)] == []
    paths = [PROJECT.joinpath(*module.split(".")) for module in modules]
    assert [path.name for path in paths if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file()] == []


def test_a_figure_that_is_changed_in_the_raw_results_shows(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    path = tmp_path / "results" / "faults.jsonl"
    path.write_text(path.read_text().replace('"outcome":"survived"', '"outcome":"reported"', 1))
    assert render(tmp_path / "results") != DOCUMENT.read_text(encoding="utf-8")


def test_no_results_are_there_but_those_of_the_plan(parts: Mapping[str, PartResults]) -> None:
    assert set(parts) == set(PARTS_BY_NAME)


def test_a_part_was_run_whole_and_of_a_known_commit(part: PartResults) -> None:
    assert part.meta["full"], f"{part.name} is a sample"
    assert re.fullmatch(r"[0-9a-f]{40}", part.meta["commit"])
    assert {"python", "himl", "azurite", "libcurl"} <= set(part.meta["versions"])
    assert all(part.meta["machine"][name] for name in ("cpu", "cores", "memory_gib", "system"))


def test_nothing_was_lost(part: PartResults) -> None:
    assert [record.id for record in part.records if record.result.outcome is Outcome.lost] == []


def test_every_case_of_the_plan_was_run_once(part: PartResults) -> None:
    planned, ran = [case.id for case in PARTS_BY_NAME[part.name].cases()], [record.id for record in part.records]
    assert sorted(set(planned) - set(ran)) == [], "these were not run"
    assert sorted(set(ran) - set(planned)) == [], "these are not in the plan"
    assert len(ran) == len(set(ran))


def test_a_case_was_met_in_each_cell(part: PartResults) -> None:
    cells: dict[str, list[Record]] = {}
    for record in part.records:
        cells.setdefault(record.id.rpartition("/")[0], []).append(record)
    assert [cell for cell, alike in cells.items() if all(one.result.outcome is Outcome.not_met for one in alike)] == []
