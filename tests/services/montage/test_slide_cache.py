"""Slides in the user's cache: when they are downloaded, how much room they take, and that none stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.events import Event, Notice
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.run_store import Database
from tests.services.montage.stored_slides import BODIES, KB, NAMES, cache, cached, fetched, listed, opened, read, size
from tests.services.montage.stored_slides import folder as folder
from tests.services.montage.stored_slides import store as store
from tests.support.folders import SmallDisk
from tests.support.running import until, write_files

KILLED = """
import os, signal, sys
from himl_cli.core.blobs import BlobInfo
from himl_cli.core.events import ignore
from himl_cli.services.montage.stored import SlideDownloads
SlideDownloads(None, {}, 10**9, ignore)
print("ready", flush=True)
sys.stdin.read()
"""


def test_only_expected_slides_are_downloaded_then_deleted(store: BlobStore) -> None:
    events: list[Event] = []
    with opened(store, expected=["03.tif", "05.tif"], events=events) as place:
        assert [read(place, name) for name in ("05.tif", "03.tif")] == [BODIES[NAMES[5]], BODIES[NAMES[3]]]
        assert cached() == {"03.tif": BODIES[NAMES[3]], "05.tif": BODIES[NAMES[5]]}
    assert sorted(fetched(events)) == [NAMES[3], NAMES[5]]
    assert [*cache().iterdir()] == []


@pytest.mark.parametrize(("limit", "said"), [(1_000 * KB, []), (999 * KB, ["The slides (1.0 MB) do not fit the cache (1.0 MB)"])])
def test_whether_all_of_it_stays_is_known_once_it_is_expected(store: BlobStore, limit: int, said: Sequence[str]) -> None:
    events: list[Event] = []
    with opened(store, limit, events=events) as place:
        assert place.is_rereadable == (not said)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert [text.partition(":")[0] for text in texts] == said
    assert all("cells of --layout fit are 4:3" in text and "HIML_SLIDE_CACHE_GB=1 " in text for text in texts)


def test_the_cache_never_takes_more_than_its_limit(store: BlobStore) -> None:
    limit = 250 * KB
    with opened(store, limit) as place:
        for name in NAMES:
            with place.local_path(name.removeprefix("slides/")) as path:
                assert path.read_bytes() == BODIES[name]
                assert size() <= limit


def test_the_next_slides_come_while_one_is_read(store: BlobStore) -> None:
    with opened(store, 350 * KB) as place, place.local_path("00.tif"):
        until(lambda: {"01.tif", "02.tif"} <= set(cached()))


def test_slides_that_were_used_once_may_be_used_again(store: BlobStore) -> None:
    with opened(store, 250 * KB) as place:
        for name in (*NAMES, *NAMES):
            assert read(place, name) == BODIES[name]
            assert size() <= 250 * KB


@pytest.mark.parametrize("limit", [0, 50 * KB, 150 * KB])
def test_one_slide_is_downloaded_despite_tiny_cache_limit(store: BlobStore, limit: int) -> None:
    with opened(store, limit) as place:
        for name in NAMES:
            assert read(place, name) == BODIES[name]
            assert size() <= max(limit, 200 * KB)  # the next one may be there by now


def test_one_thread_may_have_more_open_than_the_limit(store: BlobStore) -> None:
    with opened(store, 150 * KB) as place, ExitStack() as hands:
        paths = [hands.enter_context(place.local_path(name.removeprefix("slides/"))) for name in NAMES]
        assert [path.read_bytes() for path in paths] == [*BODIES.values()]


def test_slides_may_be_wanted_in_another_order_than_was_said(store: BlobStore) -> None:
    with opened(store, 350 * KB) as place:
        for name in reversed(NAMES):
            assert read(place, name) == BODIES[name]
            assert size() <= 450 * KB  # what is waited for comes beside what was downloaded ahead


def test_a_slide_that_is_shown_twice_is_downloaded_once(store: BlobStore) -> None:
    events: list[Event] = []
    with opened(store, 0, expected=["00.tif", "01.tif", "00.tif"], events=events) as place:
        for name in ("00.tif", "01.tif", "00.tif"):
            read(place, name)
    assert fetched(events) == [NAMES[0], NAMES[1]]


def test_shared_slide_files_stay_cached_while_in_use(folder: Path, tmp_path: Path) -> None:
    write_files(folder, {f"slides/{name}.dcm": name.encode() * 10 for name in "abc"})
    database = Database(tmp_path / "second.db", create=True)
    with opened(listed(folder, database), 0, expected=["a.dcm", "b.dcm"]) as place:
        with place.local_path("a.dcm") as path:
            assert read(place, "b.dcm") == b"b" * 10
            assert sorted(each.name for each in path.parent.glob("*.dcm")) == ["a.dcm", "b.dcm", "c.dcm"]
        assert read(place, "a.dcm") == b"a" * 10
    database.close()
    assert cached() == {}


def test_names_that_differ_in_case_only_are_two_slides(folder: Path, tmp_path: Path) -> None:
    write_files(folder, {"slides/x.tif": b"lower", "slides/X.tif": b"upper"})
    if len([*folder.joinpath("slides").glob("[xX].tif")]) < 2:
        pytest.skip("this disk takes them for one")
    database = Database(tmp_path / "second.db", create=True)
    with opened(listed(folder, database), expected=["x.tif", "X.tif"]) as place:
        assert (read(place, "x.tif"), read(place, "X.tif")) == (b"lower", b"upper")
    database.close()


def test_cache_of_other_process_is_deleted_only_if_it_died(store: BlobStore) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (left,) = (path for path in cache().iterdir() if path.is_dir())
        with opened(store, expected=["00.tif"]) as place:
            read(place, "00.tif")
            assert left.is_dir()
        process.kill()
        process.wait()
        with opened(store, expected=["00.tif"]):
            assert not left.exists()


def test_a_full_disk_ends_it_in_one_line(store: BlobStore, small_disk: SmallDisk, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not small_disk.is_shared:
        pytest.skip("the disk is seen by other processes only")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk.folder))
    write_files(folder, {"slides/huge.tif": bytes(6_000 * KB)})
    events: list[Event] = []
    database = Database(tmp_path / "second.db", create=True)
    with opened(listed(folder, database), expected=["00.tif", "huge.tif", "01.tif"], events=events) as place:
        assert not place.is_rereadable
        assert [event.text.partition(" (")[0] for event in events if isinstance(event, Notice)] == ["The slides"]
        assert not any("HIML_SLIDE_CACHE_GB" in event.text for event in events if isinstance(event, Notice))
        assert read(place, "00.tif") == BODIES[NAMES[0]]
        with pytest.raises(DiskFailed, match="no space left on the disk") as caught:
            read(place, "huge.tif")
        assert "HIML_SLIDE_CACHE_GB" in caught.value.hint
        with pytest.raises(DiskFailed, match="no space left on the disk"):
            read(place, "01.tif")
    database.close()
    assert "huge.tif" not in cached()


def test_a_cache_that_cannot_be_made_is_told(store: BlobStore) -> None:
    cache().parent.mkdir(parents=True)
    cache().write_text("a file")
    with pytest.raises(DiskFailed, match="Cannot make himl's cache folder"), opened(store):
        pass
