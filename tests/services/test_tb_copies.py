"""Copies of event files beside a second himl, of originals that are replaced, and where names or links do not go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import pytest

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.runs import Run, RunStatus
from himl_cli.services.tensorboard.copies import OVERLAP, GrowingCopy, ShownFolder, copy_name
from himl_cli.services.tensorboard.shown_runs import permanent_name
from tests.support.folders import files_below
from tests.support.tensorboard import NAME

THEN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
ORIGINAL = bytes(range(256)) * 8


def bring(copy: GrowingCopy, content: bytes, etag: str, *, modified: datetime | None = THEN) -> int | None:
    """One look at an original of this *content*: how many bytes were asked for."""
    blob = BlobInfo(NAME, len(content), etag, modified=modified)
    request = copy.request(blob)
    if request is None:
        return None
    assert 0 < request.length <= len(content)
    copy.write(request.offset, content[request.offset : request.offset + request.length])
    copy.complete(blob)
    return request.length


def contents(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in files_below(folder) if "tfevents" in path.name}


def test_stale_listing_does_not_create_second_copy(tmp_path: Path) -> None:
    """Another himl process has already copied more of the file than the listing shows."""
    one, other = GrowingCopy(tmp_path / NAME), GrowingCopy(tmp_path / NAME)
    bring(one, ORIGINAL[:1000], "a")
    assert bring(other, ORIGINAL[:1000], "a") is None
    bring(one, ORIGINAL[:1500], "b")
    assert bring(other, ORIGINAL[:1200], "ab") == OVERLAP, "no more than the end is compared"
    assert (bring(other, ORIGINAL, "c"), bring(one, ORIGINAL, "c")) == (len(ORIGINAL) - 1500 + OVERLAP, OVERLAP)
    assert contents(tmp_path) == {NAME: ORIGINAL}


def test_longer_second_copy_of_other_process_is_kept(tmp_path: Path) -> None:
    """A process that has seen less of the replaced original waits until it has grown past the copy."""
    one, other = GrowingCopy(tmp_path / NAME), GrowingCopy(tmp_path / NAME)
    new = ORIGINAL[::-1]
    for copy in (one, other):
        bring(copy, ORIGINAL, "a")
    bring(one, new[:500], "b")
    bring(one, new[:900], "c")
    assert bring(other, new[:500], "b") == OVERLAP
    assert contents(tmp_path) == {NAME: ORIGINAL, f"{NAME}.himl2": new[:900]}


def test_file_found_shorter_after_restart_gets_second_copy(tmp_path: Path) -> None:
    bring(GrowingCopy(tmp_path / NAME), ORIGINAL, "a")
    copy = GrowingCopy(tmp_path / NAME)
    bring(copy, ORIGINAL[::-1][:300], "b")
    bring(copy, ORIGINAL[::-1][:300], "b")
    assert (copy.path.name, copy.path.read_bytes()) == (f"{NAME}.himl2", ORIGINAL[::-1][:300])


@pytest.mark.parametrize("is_anew", [False, True], ids=["same himl", "another himl"])
def test_a_file_replaced_by_one_of_its_size_is_noticed(tmp_path: Path, is_anew: bool) -> None:
    copy = GrowingCopy(tmp_path / NAME)
    bring(copy, ORIGINAL, "a")
    copy = GrowingCopy(tmp_path / NAME) if is_anew else copy
    assert bring(copy, ORIGINAL, "a") is None, "what is as it was costs nothing"
    later = THEN.replace(hour=13)
    assert bring(copy, ORIGINAL[::-1], "b", modified=later) == OVERLAP
    bring(copy, ORIGINAL[::-1], "b", modified=later)
    assert contents(tmp_path) == {NAME: ORIGINAL, f"{NAME}.himl2": ORIGINAL[::-1]}


def test_names_differing_in_case_get_stable_distinct_copies() -> None:
    names = [f"A/{NAME}", f"a/{NAME}", f"b/{NAME}", f"b/{NAME}.himl2", f"b/{NAME}.v2"]
    first: dict[str, str] = {}
    again: dict[str, str] = {}
    kept = [copy_name(name, first) for name in names]
    assert kept == [copy_name(name, again) for name in names] == [copy_name(name, first) for name in names]
    assert [at for at, name in enumerate(names) if kept[at] == name] == [0, 2, 4]
    assert len({name.casefold() for name in kept}) == len(names)
    assert kept[1].startswith("a.himl-")


def test_the_folder_in_the_cache_depends_on_the_id_alone() -> None:
    def named(run_id: str, display_name: str = "") -> str:
        return permanent_name(Run(run_id, "train", RunStatus.running, THEN, display_name=display_name))

    assert named("eq_a") == named("eq_a", "First try") == "eq_a"
    assert named("EQ_A").casefold() != "eq_a"
    assert len(named("x" * 300)) < 200


@pytest.fixture
def unlinkable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, on two disks and without the right to make links; a file that TensorBoard reads cannot be removed."""

    def refused(*args: object, **options: object) -> None:
        raise PermissionError(13, "refused")

    for name in ("symlink", "link", "unlink"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr(Path, "unlink", refused)


@pytest.mark.usefixtures("unlinkable")
def test_what_lies_where_a_copy_is_to_be_is_left_as_it_is(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"user's own")
    other.write_bytes(b"another one, and longer")
    shown = ShownFolder(tmp_path / "shown")
    shown.show("run", {NAME: one})
    shown.show("run", {NAME: other})
    with other.open("ab") as more:
        more.write(b", grown")
    shown.show("run", {NAME: other})
    assert contents(tmp_path / "shown") == {NAME: b"user's own", f"{NAME}.himl2": b"another one, and longer, grown"}
    assert one.read_bytes() == b"user's own"


@pytest.mark.usefixtures("unlinkable")
def test_only_the_copies_of_the_run_that_is_shown_are_kept_up(tmp_path: Path) -> None:
    path = tmp_path / "original"
    path.write_bytes(b"one")
    shown = ShownFolder(tmp_path / "shown")
    shown.show("first", {NAME: path})
    path.write_bytes(b"one, two")
    shown.show("second", {})
    assert contents(tmp_path / "shown") == {NAME: b"one"}
    shown.show("first", {NAME: path})
    assert contents(tmp_path / "shown") == {NAME: b"one, two"}
