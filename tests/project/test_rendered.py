"""Generated pages and pictures: pages of figures from the raw results of full runs, and the README's pictures from
real commands.
"""

from __future__ import annotations

import gzip
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.text import Text

from benchmarks import report
from benchmarks.aims import AIMS
from benchmarks.all import BENCHES
from benchmarks.raw import read_results
from benchmarks.report import verdicts
from docs.tools.terminal import COLUMNS, COMMANDS, PICTURES, SVG, captured, lines_of
from stress import document
from stress.plan import PARTS
from stress.records import Outcome, read_parts

PROJECT = Path(__file__).parents[2]
STRESS = PROJECT / "stress" / "results"
PARAMETERS = {
    "1",
    "1.61",
    "5",
    "10",
    "15",
    "16",
    "20",
    "30",
    "32",
    "40",
    "50",
    "100",
    "1,000",
    "200",
    "1500",
    "2000",
    "2,000",
    "2",
    "4",
    "60",
    "5,000",
}
PARAMETERS |= {"0", "12", "224", "3000", "4000", "10,000"}
"""The numbers that the templates may contain: parameters of the measurements, not results."""
NUMBER = re.compile(r"(\d+\.\d+)(?: ([KM]B))?")
BYTES = {"KB": 1e3, "MB": 1e6, "": 1.0}


def test_pages_of_figures_are_what_all_benchmarks_made() -> None:
    prose = re.sub(r"\{\{.*?\}\}|\]\(.*?\)", "", (report.HERE / "performance.md.in").read_text(encoding="utf-8"))
    assert set(re.findall(r"\d[\d.,]*\d|\d", prose.replace("MD5", ""))) <= PARAMETERS
    found = read_results(report.RESULTS)
    commands = {bench: raw.meta["command"] for bench, raw in found.items()}
    assert re.fullmatch(r"python -m benchmarks\.soak( --minutes \d+)?", commands.pop("soak"))
    assert commands == {bench: f"python -m benchmarks.{bench}" for bench in BENCHES}
    assert {aim.bench for aim in AIMS} == {*BENCHES, "soak"}
    for verdict in verdicts(found):
        assert verdict.value is not None, f"{verdict.aim.text}: {verdict.why}"
        assert verdict.is_kept or verdict.aim.cause, f"{verdict.aim.text}: {verdict.value}"


def test_reliability_page_is_what_a_full_run_of_the_plan_made(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "reliability.md").read_text(encoding="utf-8")
    shutil.copytree(STRESS, tmp_path / "results")
    path = tmp_path / "results" / "results.jsonl.gz"
    path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes()).replace(b'"outcome":"survived"', b'"outcome":"reported"', 1))
    )
    assert document.render(tmp_path / "results") != page
    parts, planned = read_parts(STRESS), {part.name: [case.id for case in part.cases()] for part in PARTS}
    assert set(parts) == set(planned)
    for name, part in parts.items():
        assert part.meta["full"], f"{name} is a sample: run 'scripts/stress --full --only {name}'"
        assert re.fullmatch(r"[0-9a-f]{40}", part.meta["commit"])
        assert Counter(record.id for record in part.records) == Counter(planned[name])
        assert [record.id for record in part.records if record.result.outcome is Outcome.lost] == []
        met = {record.id.rpartition("/")[0] for record in part.records if record.result.outcome is not Outcome.not_met}
        assert {record.id.rpartition("/")[0] for record in part.records} == met


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_pictures_show_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare all text except losses and sizes, which vary between versions of scikit-learn. `scripts/generate
    terminal` renews the pictures.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # for the same speed on a busy machine
    (tmp_path / "world").mkdir()
    fresh = Text.from_ansi(captured(tmp_path / "world")).plain.splitlines()
    assert [line[2:] for line in fresh if line.startswith("$ ")] == list(COMMANDS)
    assert max(map(len, fresh)) <= COLUMNS
    for path in PICTURES:
        lines = lines_of(path.read_text(encoding="utf-8"))
        assert words(lines) == words(fresh)
        assert numbers(lines) == pytest.approx(numbers(fresh), rel=0.4)


def words(lines: list[str]) -> list[list[str]]:
    """The words of each non-empty line, with `#` for decimal numbers and sizes."""
    return [NUMBER.sub("#", line).split() for line in lines if line.strip()]


def numbers(lines: list[str]) -> list[float]:
    return [float(number) * BYTES[unit] for line in lines for number, unit in NUMBER.findall(line)]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: str(path.stem))
def test_picture_fetches_nothing_and_can_be_read(path: Path) -> None:
    svg = path.read_text(encoding="utf-8")
    assert re.findall(r"\w+://[^\"' ]*", svg) == [SVG.strip("{}")]
    assert "@import" not in svg
    assert "url(" not in svg.replace("url(#", "")
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "style", "defs", "clipPath", "rect", "g", "circle", "text"}
