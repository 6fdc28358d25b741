"""montage.csv: what readers find in it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import DiskFailed
from himl_cli.core.montage import Box, CellOutcome
from himl_cli.services.montage.files import plain, write_record

READ = CellOutcome(
    slide_id="a",
    label="1",
    image="a.tiff",
    mask=None,
    column=3,
    row=2,
    box=Box(10, 20, 300, 200),
    picture=Box(11, 22, 290, 180),
    level=1,
    backend="tifffile",
    is_ok=True,
    remark="level 2 is missing",
)
FAILED = replace(READ, label=None, mask="m.png", picture=None, level=None, backend="", is_ok=False, reason="it is empty", remark="")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_line_tells_all_of_a_cell(tmp_path: Path) -> None:
    write_record(tmp_path / "montage.csv", [READ, FAILED, replace(READ, reason="mask: it is empty")])
    first, second, third = read(tmp_path / "montage.csv")
    assert ",".join(first) == (
        "slide_id,label,image,mask,column,row,x,y,width,height,picture_x,picture_y,picture_width,picture_height,level,backend,status,reason,remark"
    )
    assert list(first.values()) == [
        "a",
        "1",
        "a.tiff",
        "",
        "3",
        "2",
        "10",
        "20",
        "300",
        "200",
        "11",
        "22",
        "290",
        "180",
        "1",
        "tifffile",
        "ok",
        "",
        READ.remark,
    ]
    assert list(second.values()) == ["a", "", "a.tiff", "m.png", "3", "2", "10", "20", "300", "200", "", "", "", "", "", "", "failed", "it is empty", ""]
    assert (third["status"], third["reason"]) == ("mask failed", "mask: it is empty")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("=1+1", "=1+1"),
        ("a,b", "a,b"),
        ('say "x"', 'say "x"'),
        ("two\nlines", "two\nlines"),
        ("é \U0001f52c ‮", "é \U0001f52c ‮"),
        (b"caf\xe9.tiff".decode("utf-8", "surrogateescape"), "caf\\xe9.tiff"),
        ("\ud800", "\\ud800"),
        ("\0", "\\u0000"),
        ("a\rb", "a\\rb"),
    ],
)
def test_odd_texts_can_be_read(text: str, seen: str, tmp_path: Path) -> None:
    write_record(tmp_path / "montage.csv", [replace(READ, slide_id=text)])
    assert read(tmp_path / "montage.csv")[0]["slide_id"] == seen


@given(st.text(alphabet=st.characters(), max_size=20))
def test_every_text_becomes_utf_8(text: str) -> None:
    assert plain(text).encode("utf-8").decode("utf-8") == plain(text)
    if text.isprintable():
        assert plain(text) == text


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match=r"Cannot write .*montage\.csv.*No such file"):
        write_record(tmp_path / "gone" / "montage.csv", [READ])
