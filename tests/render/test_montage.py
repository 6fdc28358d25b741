"""What is said of a montage: files, numbers, and what could not be read, in a bounded number of lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from himl_cli.core.montage import Box, CellOutcome, MontageResult, WrittenFile
from himl_cli.render.output import Format, Output
from himl_cli.render.results import FAILED_SLIDES_SHOWN, failed_lines, print_montage


def cell(slide_id: str, reason: str = "", *, is_ok: bool | None = None, remark: str = "") -> CellOutcome:
    ok = not reason if is_ok is None else is_ok
    box = Box(0, 0, 40, 30)
    picture, level = (box, 1) if ok else (None, None)
    image, backend = f"{slide_id}.tiff", "tifffile"
    return CellOutcome(slide_id, image, column=0, row=0, box=box, picture=picture, level=level, backend=backend, is_ok=ok, reason=reason, remark=remark)


def result(cells: Sequence[CellOutcome]) -> MontageResult:
    return MontageResult([Path("outputs/montage.png")], (60_000, 33_750), (60_000, 33_750), 20, 10, cells, 15.2)


FILES = [
    WrittenFile(Path("outputs/montage.png"), 1_374_000_000, (60_000, 33_750)),
    WrittenFile(Path("outputs/montage.jpg"), 228_000_000, (60_000, 33_750)),
    WrittenFile(Path("outputs/montage.csv"), 30_100, None),
]


def test_montage_lists_files_with_sizes_then_one_summary_line(capfd: pytest.CaptureFixture[str]) -> None:
    print_montage(Output(), result([cell(f"s{number}") for number in range(200)]), FILES)
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        "outputs/montage.png  60,000 x 33,750    1.4 GB",
        "outputs/montage.jpg  60,000 x 33,750  228.0 MB",
        "outputs/montage.csv                    30.1 KB",
        "200 slides in 20 columns and 10 rows; 15s.",
    ]


@pytest.mark.parametrize(
    ("cells", "summary"),
    [
        ([cell("a")], "1 slide in 20 columns and 10 rows; 15s."),
        ([cell("a"), cell("b", "it is empty")], "1 of 2 slides in 20 columns and 10 rows, 1 not read; 15s."),
        ([cell("a", "its mask is empty", is_ok=True)], "1 slide in 20 columns and 10 rows, 1 without its mask; 15s."),
    ],
)
def test_what_is_lacking_is_counted(cells: Sequence[CellOutcome], summary: str, capfd: pytest.CaptureFixture[str]) -> None:
    print_montage(Output(), result(cells), FILES)
    assert capfd.readouterr().out.splitlines()[-1] == summary


def test_slides_that_failed_alike_are_told_in_one_line() -> None:
    cells = [
        cell("ok"),
        *(cell(f"s{number}", "it does not exist") for number in range(5000)),
        cell("mask", "it is empty", is_ok=True),
        cell("z", "it is empty"),
    ]
    assert list(failed_lines(result(cells).troubled)) == [
        "not read: 's0', 's1', 's2' and 4,997 more: it does not exist",
        "mask not read: 'mask': it is empty",
        "not read: 'z': it is empty",
    ]


def test_where_none_was_read_the_end_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    last = "None of the slides was read. Paths in a CSV are relative to its folder."
    print_montage(Output(), result([cell("a", "it does not exist"), cell("b", "it is empty")]), FILES)
    assert capfd.readouterr().err.splitlines()[-1] == last
    print_montage(Output(), result([cell("a", "it does not exist"), cell("b")]), FILES)
    assert last not in capfd.readouterr().err


def test_thousands_of_reasons_do_not_flood() -> None:
    lines = list(failed_lines([cell(f"s{number}", f"byte {number} is odd") for number in range(5000)]))
    assert len(lines) == FAILED_SLIDES_SHOWN + 1
    assert lines[-1] == f"... and {5000 - FAILED_SLIDES_SHOWN:,} more, for other reasons; montage.csv has them all."


def test_programs_get_every_reason_and_remark(capfd: pytest.CaptureFixture[str]) -> None:
    import json

    cells = [cell("a", remark="level 2 instead of 5"), *(cell(f"s{number}", f"byte {number}") for number in range(100)), cell("m", "empty", is_ok=True)]
    print_montage(Output(Format.json), result(cells), FILES)
    said = capfd.readouterr()
    assert said.err == ""
    document = json.loads(said.out)
    assert document["files"][0] == {"path": str(FILES[0].path), "bytes": 1_374_000_000, "width": 60_000, "height": 33_750}
    assert document["files"][2]["width"] is None
    assert (document["width"], document["height"], document["columns"], document["rows"], document["slides"]) == (60_000, 33_750, 20, 10, 102)
    assert [failed["reason"] for failed in document["failed"]] == [f"byte {number}" for number in range(100)]
    assert document["failed_masks"] == [{"slide_id": "m", "image": "m.tiff", "mask": None, "reason": "empty"}]
    assert document["remarks"] == [{"slide_id": "a", "image": "a.tiff", "remark": "level 2 instead of 5"}]
    assert document["seconds"] == 15.2


def test_quiet_prints_paths_alone(capfd: pytest.CaptureFixture[str]) -> None:
    print_montage(Output(Format.quiet), result([cell("a", "it is empty")]), FILES)
    said = capfd.readouterr()
    assert (said.out.splitlines(), said.err) == ([str(file.path) for file in FILES], "")


def test_strict_counts_masks_too() -> None:
    assert result([cell("a")]).problem is None
    assert str(result([cell("a", "empty", is_ok=True)]).problem) == "One slide or its mask was not read, and --strict was given."
    assert str(result([cell("a", "x"), cell("b", "x")]).problem) == "2 slides or their masks were not read, and --strict was given."
