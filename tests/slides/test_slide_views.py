"""The output of montages: files, counts, and slides that failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from himl_cli.render.output import Format, Output
from himl_cli.slides.slide_records import Box, CellOutcome, MontageResult, WrittenFile
from himl_cli.slides.slide_views import FAILED_SLIDES_SHOWN, failed_lines, print_montage


def slide(slide_id: str, reason: str = "", *, is_ok: bool | None = None, remark: str = "") -> CellOutcome:
    ok = not reason if is_ok is None else is_ok
    box = Box(0, 0, 40, 30)
    picture, level = (box, 1) if ok else (None, None)
    image, backend = f"{slide_id}.tiff", "tifffile"
    return CellOutcome(
        slide_id,
        image,
        column=0,
        row=0,
        box=box,
        picture=picture,
        level=level,
        backend=backend,
        is_ok=ok,
        reason=reason,
        remark=remark,
    )


def result(cells: Sequence[CellOutcome]) -> MontageResult:
    return MontageResult([Path("outputs/montage.png")], (60_000, 33_750), (60_000, 33_750), 20, 10, cells, 15.2)


FILES = [
    WrittenFile(Path("outputs/montage.png"), 1_374_000_000, (60_000, 33_750)),
    WrittenFile(Path("outputs/montage.jpg"), 228_000_000, (60_000, 33_750)),
]
FILES += [WrittenFile(Path("outputs/montage.csv"), 30_100, None)]


def printed(
    capfd: pytest.CaptureFixture[str], cells: Sequence[CellOutcome], format: Format = Format.human
) -> tuple[str, str]:
    print_montage(Output(format), result(cells), FILES)
    said = capfd.readouterr()
    return said.out, said.err


def test_montage_lists_files_with_sizes_then_one_summary_line(capfd: pytest.CaptureFixture[str]) -> None:
    said, errors = printed(capfd, [slide(f"s{number}") for number in range(200)])
    assert errors == ""
    assert said.splitlines() == [
        "outputs/montage.png  60,000 x 33,750    1.4 GB",
        "outputs/montage.jpg  60,000 x 33,750  228.0 MB",
        "outputs/montage.csv                    30.1 KB",
        "200 slides in 20 columns and 10 rows; 15s.",
    ]
    assert printed(capfd, [slide("a", "it is empty")], Format.quiet) == (
        "".join(f"{file.path}\n" for file in FILES),
        "",
    )


def test_what_a_montage_lacks_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    one, mask = (
        "One slide or its mask was not read, and --strict allows no failure.",
        slide("a", "its mask is empty", is_ok=True),
    )
    for cells, summary, problem in (
        ([slide("a")], "1 slide in 20 columns and 10 rows; 15s.", "None"),
        (
            [slide("a"), slide("b", "it is empty")],
            "1 of 2 slides in 20 columns and 10 rows, 1 not read; 15s.",
            one,
        ),
        ([mask], "1 slide in 20 columns and 10 rows, 1 without its mask; 15s.", one),
        (
            [slide("a"), slide("b", "x"), mask],
            "2 of 3 slides in 20 columns and 10 rows, 1 not read, 1 without its mask; 15s.",
            "2 slides or their masks were not read, and --strict allows no failure.",
        ),
    ):
        said, _ = printed(capfd, cells)
        assert said.splitlines()[-1] == summary
        assert str(result(cells).problem) == problem


def test_slides_that_failed_alike_are_told_in_one_line() -> None:
    alike = [slide(f"s{number}", "it does not exist") for number in range(5000)]
    assert list(
        failed_lines(
            result([slide("ok"), *alike, slide("mask", "it is empty", is_ok=True), slide("z", "it is empty")]).troubled
        )
    ) == [
        "not read: 's0', 's1', 's2' and 4,997 more: it does not exist",
        "mask not read: 'mask': it is empty",
        "not read: 'z': it is empty",
    ]
    lines = list(failed_lines([slide(f"s{number}", f"byte {number} is odd") for number in range(5000)]))
    assert len(lines) == FAILED_SLIDES_SHOWN + 1
    assert (
        lines[-1] == f"... and {5000 - FAILED_SLIDES_SHOWN:,} more, for other reasons. montage.csv lists all of them."
    )


def test_programs_get_every_reason_and_remark(capfd: pytest.CaptureFixture[str]) -> None:
    cells = [
        slide("a", remark="level 2 instead of 5"),
        *(slide(f"s{number}", f"byte {number}") for number in range(100)),
        slide("m", "empty", is_ok=True),
    ]
    said, errors = printed(capfd, cells, Format.json)
    document = json.loads(said)
    assert errors == ""
    assert document.pop("files")[::2] == [
        {"path": str(FILES[0].path), "bytes": 1_374_000_000, "width": 60_000, "height": 33_750},
        {"path": str(FILES[2].path), "bytes": 30_100, "width": None, "height": None},
    ]
    assert [failed["reason"] for failed in document.pop("failed")] == [f"byte {number}" for number in range(100)]
    assert document["failed_masks"] == [{"slide_id": "m", "image": "m.tiff", "mask": None, "reason": "empty"}]
    assert document["remarks"] == [{"slide_id": "a", "image": "a.tiff", "remark": "level 2 instead of 5"}]
    numbers = {"width": 60_000, "height": 33_750, "columns": 20, "rows": 10, "slides": 102, "seconds": 15.2}
    assert {name: document[name] for name in numbers} == numbers
