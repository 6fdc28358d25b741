from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.services.transfer.local_files import UnsafeName, folded, part_name, safe_relative
from himl_cli.services.transfer.plan import TargetFolder

TRICKY = st.text(alphabet='ab./\\:~ \0\n\x85\u202e*?"<>|é\udcff\ud800CONNUL1', max_size=12)
ANY = st.text(st.characters(exclude_categories=()), max_size=30)


@given(TRICKY | ANY)
def test_a_name_that_passes_stays_below_the_folder_on_posix(name: str) -> None:
    try:
        parts = safe_relative(name, windows=False)
    except UnsafeName:
        return
    path = PurePosixPath("/target", *parts)
    assert "/".join(parts) == name
    assert path.parts[:2] == ("/", "target")
    assert len(path.parts) == 2 + len(parts)
    assert not {"", ".", ".."} & {*path.parts}
    assert all(len(part.encode("utf-8", "surrogateescape")) <= 255 for part in parts)


@pytest.mark.filterwarnings("ignore:.*is_reserved:DeprecationWarning")  # its successor is not in Python before 3.13
@given(TRICKY | ANY)
def test_a_name_that_passes_stays_below_the_folder_on_windows(name: str) -> None:
    try:
        parts = safe_relative(name, windows=True)
    except UnsafeName:
        return
    path = PureWindowsPath("C:\\target", *parts)
    assert path.parts == ("C:\\", "target", *parts)
    assert not PureWindowsPath(name).is_reserved()
    assert not {".", ".."} & {part.rstrip(". ") or "." for part in parts}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "./a",
        "../../a",
        "C:",
        "c:/x",
        "C:\\x",
        "\\\\server\\share",
        "\\x",
        "a\\..\\b",
        "..\\x",
        "a\0",
        "a\tb",
        "\x9b0m",
        "é" * 128,
        "a/" * 600 + "b",
        "\ud800",
        ".himl-transfer.db",
        "x/.HIML-TRANSFER.db-wal",
        ".himl-ranks/x",
        "a/.b.himl-part",
    ],
)
@pytest.mark.parametrize("windows", [False, True])
def test_names_that_are_refused_everywhere(name: str, windows: bool) -> None:
    with pytest.raises(UnsafeName, match=r"it|part"):
        safe_relative(name, windows=windows)


@pytest.mark.parametrize("name", ["con", "a/NUL.txt", "com1", "LPT¹.log", "aux .x", "a:b", "a\\b", "what?", "end.", "end ", "a/b./c"])
def test_names_that_only_windows_cannot_hold(name: str) -> None:
    assert "/".join(safe_relative(name, windows=False)) == name
    with pytest.raises(UnsafeName, match="Windows"):
        safe_relative(name, windows=True)


@pytest.mark.parametrize(
    "name", ["a", "outputs/epoch=3.ckpt", "a b/ü", "...", "..a", "a..", ".hidden", "x/" * 50 + "y", "n" * 255, "console.txt", "lock.himl-part"]
)
def test_ordinary_names_pass(name: str) -> None:
    assert "/".join(safe_relative(name, windows=False)) == name


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300))
def test_partial_file_name_fits_limit_and_is_unique(base: str) -> None:
    assert len(part_name(base, "0a1b2c3d").encode()) <= 255
    assert (part_name(base, "m").startswith("."), part_name(base, "m").endswith(".himl-part")) == (True, True)
    assert part_name(base + "x" * 300, "m") != part_name(base + "y" * 300, "m")
    assert part_name(base, "m") != part_name(base, "n")


def test_names_fold_by_case_and_unicode_form() -> None:
    assert folded("Große/\u00c9") == folded("grosse/e\u0301") != folded("grosse/e")


def test_this_file_system_is_asked_whether_it_folds(tmp_path: Path) -> None:
    (tmp_path / "Probe").touch()
    assert TargetFolder(tmp_path).folds_names() == (tmp_path / "pROBE").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["Probe"]
