"""Which files are brought along with a slide of several files."""

from __future__ import annotations

import pytest

from himl_cli.services.montage.stored import companions

NAMES = sorted(
    [
        *("a.mrxs", "a/Data1.dat", "a/sub/x", "ab/y", "a.svs", "B.MRXS", "B/Slidedat.ini"),
        *("h/s 1.vms", "h/s 1(1,0).jpg", "h/s 1.opt", "h/s 1_map.jpg", "h/s 1x/y.jpg", "h/s 2.jpg", "h/t.vmu", "h/t.vmu2"),
        *("d/1.dcm", "d/2.DCM", "d/3.txt", "d/deep/4.dcm", "5.dcm"),
    ]
)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("a.mrxs", ["a/Data1.dat", "a/sub/x"]),
        ("B.MRXS", ["B/Slidedat.ini"]),
        ("h/s 1.vms", ["h/s 1(1,0).jpg", "h/s 1.opt", "h/s 1_map.jpg"]),
        ("h/t.vmu", ["h/t.vmu2"]),
        ("d/1.dcm", ["d/2.DCM"]),
        ("5.dcm", []),
        ("a.svs", []),
    ],
)
def test_what_belongs_to_a_slide(name: str, others: list[str]) -> None:
    assert [*companions(name, NAMES)] == others
