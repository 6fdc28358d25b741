"""The document of raw results, from a set of them that is made here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from stress.document import TEMPLATE, duration, main, render
from stress.records import Outcome, Record, RecordFile, Result, read_records, write_records
from stress.tables import figure

ABOUT = {
    "full": False,
    "seed": 8,
    "command": "scripts/stress --full --seed 8",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "started": "2026-03-01T12:34:56Z",
    "machine": {"cpu": "A Processor", "cores": 2, "memory_gib": 23, "disk": "ext4", "system": "Linux 6.1"},
    "versions": {"python": "3.11.7", "azurite": "3.35.0"},
}
SURVIVED, REPORTED, NOT_MET = Result(Outcome.survived, 0, 1.5, 2, 0), Result(Outcome.reported, 5, 183.2, 9, 0), Result(Outcome.not_met, 0, 0.4)
LOST = Result(Outcome.lost, 0, 1.0, 1, None, "'x|y' has other\nbytes from byte 7 on")
FUZZED = replace(SURVIVED, facts={"examples": 5000})
MATRIX = {"download/flip": [SURVIVED, REPORTED, NOT_MET], "download/reset": [SURVIVED] * 12, "tb/flip": [replace(REPORTED, code=6)]}
RESULTS: dict[str, dict[str, list[Result]]] = {
    "faults": MATRIX,
    "kills": {"upload/SIGKILL": [SURVIVED]},
    "ranks": {"download/at_once": [SURVIVED], "orders/all": [replace(SURVIVED, facts={"orders": 40_320})]},
    "names": {"download/dots": [REPORTED]},
    "fuzz": {"settings/toml": [FUZZED, replace(FUZZED, facts={"examples": 12_345})], "names/safe_relative": [FUZZED]},
    "secrets": {
        "submit/variables": [replace(SURVIVED, facts={"marks": 7, "files": 1000}), replace(SURVIVED, facts={"marks": 8, "files": 234})],
        "suite/tests_commands": [replace(SURVIVED, facts={"tests": 629, "outputs": 2345})],
    },
    "load": {"listing/100000": [replace(SURVIVED, facts={"peak_mib": 98.3456, "blobs": 100_000, "seconds": {"list": 12.3456}})]},
    "endpoint": {"idle/tracked": [replace(SURVIVED, facts={"sent": 15_000, "threads": 7}), replace(SURVIVED, facts={"sent": 2000, "threads": 5})]},
}


def made(folder: Path, results: dict[str, dict[str, list[Result]]] = RESULTS, *, full: bool = True, parts: Iterable[str] = RESULTS) -> Path:
    """Raw results in *folder*."""
    for part in parts:
        file = RecordFile(folder, {**ABOUT, "part": part})
        for cell, ends in results[part].items():
            for number, result in enumerate(ends):
                file.add(Record(f"{part}/{cell}/{number:02d}", result))
        file.finish(2100, full=full)
    return folder


def test_what_was_lost_at_first_and_run_again_is_told(tmp_path: Path) -> None:
    assert "No case was lost at first and run again." in render(made(tmp_path / "none"))
    folder = made(tmp_path / "mended")
    meta, records = read_records(folder / "names.jsonl")
    told = {"names/download/dots/00": {"why": "`a`\n<b> " + "c" * 300, "commit": "fedcba9876543210" * 3, "dirty": False}}
    write_records(folder / "names.jsonl", {**meta, "mended": told}, records)
    assert "- `names/download/dots/00`, right with commit fedcba9876. It said: `'a' <b> [...]`" in render(folder).splitlines()


def test_a_table_has_each_cell_the_sums_and_what_was_not_met(tmp_path: Path) -> None:
    text = render(made(tmp_path))
    assert (
        "|  | download | tb | sum | not met |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| flip | 1 / 1 / 0 | 0 / 1 / 0 | 1 / 2 / 0 | 1 |\n"
        "| reset | 12 / 0 / 0 | – | 12 / 0 / 0 | 0 |\n"
        "| sum | 13 / 1 / 0 | 0 / 1 / 0 | 13 / 2 / 0 | 1 |\n"
    ) in text
    assert "Exit codes of those reported: `5` (1), `6` (1). The longest call took\n3 min" in text


def test_fuzzing_table_lists_targets_with_example_counts(tmp_path: Path) -> None:
    text = render(made(tmp_path))
    assert "takes 22,345 made-up texts" in text
    assert "| settings | toml | 17,345 | 2 / 0 / 0 | 0 |\n" in text
    assert "| sum |  | 22,345 | 3 / 0 / 0 | 0 |\n" in text


def test_figures_are_told_by_their_cases_and_names(tmp_path: Path) -> None:
    text = render(made(tmp_path))
    assert "| listing 100,000 | blobs | 100,000 |\n|  | peak mib | 98.35 |\n|  | seconds list | 12.35 |\n" in text
    assert "| idle | tracked | 17,000 | 7 | – | – | – | 2 / 0 / 0 | 0 |" in text


def test_cases_of_one_column_can_stand_apart_from_the_others(tmp_path: Path) -> None:
    text = render(made(tmp_path))
    assert "| submit | variables | 15 | 1,234 | – | 2 / 0 / 0 | 0 |\n| sum |  | 15 | 1,234 | – | 2 / 0 / 0 | 0 |\n" in text
    assert "| suite tests_commands | outputs | 2,345 |\n|  | tests | 629 |\n" in text
    assert "`orders` run 40,320 orders" in text


def test_the_first_lines_say_that_nothing_was_lost(tmp_path: Path) -> None:
    said = render(made(tmp_path)).splitlines()[2:6]
    assert said[0] == "**Nothing was lost.** Of 28 cases, 25 ended as if nothing had been, 3 with a documented exit code and its line, nothing lost."
    assert said[2] == "In 1 further cases what was to go wrong did not come about; they are counted apart."


def test_first_lines_name_lost_cases_and_command_to_repeat(tmp_path: Path) -> None:
    lines = render(made(tmp_path, {**RESULTS, "faults": {**MATRIX, "list/token": [SURVIVED, LOST]}})).splitlines()
    assert lines[2].startswith("**1 of 30 cases lost something.** Of the others, 26 ended")
    assert lines[4] == "- `faults/list/token/01`: 'x|y' has other bytes from byte 7 on (`python -m stress --case faults/list/token/01 --seed 8`)"
    assert "| token | – | 1 / 0 / 1 | – | 1 / 0 / 1 | 0 |" in lines


def test_a_run_that_was_not_all_is_said_to_be_none(tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, full=False, parts=["kills", "load"])
    assert "\n**Not all of it was run**: kills, load.\n" in render(tmp_path)


def test_each_part_shows_command_and_commit_machine_shown_once(tmp_path: Path) -> None:
    text = render(made(tmp_path))
    assert "| faults | 16 | `scripts/stress --full --seed 8` | 0123456789 | 2026-03-01 12:34 | 35 min |" in text
    assert text.count("- A Processor, 2 cores, 23 GiB of memory, ext4, Linux 6.1; azurite 3.35.0, python 3.11.7\n") == 1


@pytest.mark.parametrize(
    ("part", "cell", "result"),
    [("faults", "download/reset", REPORTED), ("fuzz", "settings/toml", replace(FUZZED, facts={"examples": 12_346})), ("load", "listing/100000", REPORTED)],
)
def test_no_case_can_change_without_the_document(tmp_path: Path, part: str, cell: str, result: Result) -> None:
    other = {**RESULTS, part: {**RESULTS[part], cell: [*RESULTS[part][cell][:-1], result]}}
    assert render(made(tmp_path / "one")) != render(made(tmp_path / "other", other))


def test_every_part_of_the_template_has_to_be_there(tmp_path: Path) -> None:
    made(tmp_path, parts=[name for name in RESULTS if name != "kills"])
    with pytest.raises(
        ValueError, match=r"The document needs 'kills\.by_command', and there are no results of a part 'kills': 'scripts/stress --full' makes them\."
    ):
        render(tmp_path)


def test_without_results_it_is_said_what_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path), "--output", str(tmp_path / "x.md")]) == 1
    assert capsys.readouterr().err.endswith("'scripts/stress --full' makes them.\n")
    assert not (tmp_path / "x.md").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("faults.best", "a part has no 'best'"),
        ("faults.sum.examples", "no case has the fact 'examples'"),
        ("faults.best:lost", "it has no cases of 'best'"),
    ],
)
def test_a_template_cannot_ask_for_what_there_is_not(tmp_path: Path, asked: str, said: str) -> None:
    template = tmp_path / "any.md.in"
    template.write_text(f"All: {{{asked}}}\n")
    with pytest.raises(ValueError, match=f"The document needs '{asked}', but {said}"):
        render(made(tmp_path / "results"), template)


def test_the_document_is_written_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--results", str(made(tmp_path / "results")), "--output", str(tmp_path / "reliability.md")]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert (tmp_path / "reliability.md").read_bytes() == render(tmp_path / "results").encode()
    assert main([*arguments, "--check"]) == 0
    tampered = (tmp_path / "reliability.md").read_text().replace("13 / 2 / 0", "14 / 1 / 0")
    (tmp_path / "reliability.md").write_text(tampered)
    assert main([*arguments, "--check"]) == 1
    assert capsys.readouterr().err == "'reliability.md' is not what the raw results give; 'python -m stress.document' writes it.\n" * 2


def test_the_template_has_no_figure_of_its_own() -> None:
    prose = re.sub(r"(?m)^    .*$|`[^`]*`|\{[a-z_.:-]+\}", "", TEMPLATE.read_text())
    assert re.findall(r"(?<![\w.])\d[\d,.]*(?!\w)", prose) == []


@pytest.mark.parametrize(("value", "said"), [(12345, "12,345"), (0.256, "0.26"), (1234.5, "1,234"), (True, "yes"), (["a", 1000], "a, 1,000"), ("text", "text")])
def test_figures_are_easy_to_read(value: object, said: str) -> None:
    assert figure(value) == said


@pytest.mark.parametrize(("seconds", "said"), [(12.34, "12.3 s"), (183.2, "3 min"), (2100, "35 min"), (7500, "2 h 5 min")])
def test_times_are_easy_to_read(seconds: float, said: str) -> None:
    assert duration(seconds) == said
