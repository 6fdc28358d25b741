"""Slides in the user's cache: when they are brought there, and how much of it stays."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.events import Event, Notice
from himl_cli.services.montage.cache_pins import FOLDER as IN_USE
from himl_cli.services.montage.slide_cache import SlideCache
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.database import Database
from tests.running import write_files
from tests.services.montage.stored_slides import BODIES, KB, NAMES, cache, cached, fetched, listed, opened, read, size
from tests.services.montage.stored_slides import folder as folder
from tests.services.montage.stored_slides import store as store
from tests.special_folders import SmallDisk


def test_only_what_is_expected_is_brought(store: BlobStore) -> None:
    events: list[Event] = []
    with opened(store, expected=["03.tif", "05.tif"], events=events) as place:
        assert [read(place, name) for name in ("05.tif", "03.tif")] == [BODIES[NAMES[5]], BODIES[NAMES[3]]]
    assert cached() == {"03.tif": BODIES[NAMES[3]], "05.tif": BODIES[NAMES[5]]}
    assert sorted(fetched(events)) == [NAMES[3], NAMES[5]]


def test_what_is_unchanged_is_not_brought_again_and_what_changed_is(folder: Path, store: BlobStore, tmp_path: Path) -> None:
    with opened(store) as place:
        assert [read(place, name) for name in NAMES] == [*BODIES.values()]
    write_files(folder, {NAMES[2]: b"other"})
    database = Database(tmp_path / "second.db", create=True)
    events: list[Event] = []
    with opened(listed(folder, database), events=events) as place:
        assert [read(place, name) for name in NAMES] == [b"other" if name == NAMES[2] else BODIES[name] for name in NAMES]
    database.close()
    assert fetched(events) == [NAMES[2]]


def test_a_file_of_the_cache_that_was_spoilt_is_brought_again(store: BlobStore) -> None:
    with opened(store) as place:
        read(place, NAMES[0])
    (spoilt,) = cache().rglob("00.tif")
    spoilt.write_bytes(b"cut off")
    with opened(store) as place:
        assert read(place, NAMES[0]) == BODIES[NAMES[0]]


@pytest.mark.parametrize(("limit", "said"), [(1_000 * KB, []), (999 * KB, ["The slides (1.0 MB) do not fit the cache (1.0 MB)"])])
def test_whether_all_of_it_stays_is_known_once_it_is_expected(store: BlobStore, limit: int, said: Sequence[str]) -> None:
    events: list[Event] = []
    with opened(store, limit, events=events) as place:
        assert place.is_read_twice == (not said)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert [text.partition(":")[0] for text in texts] == said
    assert all("cells of --layout fit are 4:3" in text and "HIML_SLIDE_CACHE_GB=1 " in text for text in texts)


def test_the_cache_never_takes_more_than_its_limit(store: BlobStore) -> None:
    limit = 250 * KB
    with opened(store, limit) as place:
        for name in NAMES:
            with place.at_hand(name.removeprefix("slides/")) as path:
                assert path.read_bytes() == BODIES[name]
                assert size() <= limit
    assert 0 < size() <= limit


def test_slides_that_were_used_once_may_be_used_again(store: BlobStore) -> None:
    with opened(store, 250 * KB) as place:
        for name in (*NAMES, *NAMES):
            assert read(place, name) == BODIES[name]
            assert size() <= 250 * KB


@pytest.mark.parametrize("limit", [0, 50 * KB, 150 * KB])
def test_one_slide_at_a_time_is_brought_however_small_the_limit(store: BlobStore, limit: int) -> None:
    with opened(store, limit) as place:
        for name in NAMES:
            assert read(place, name) == BODIES[name]
            assert size() <= max(limit, 200 * KB)  # the next one may have been brought by now
    assert size() <= limit


def test_one_thread_may_have_more_at_hand_than_the_limit(store: BlobStore) -> None:
    with opened(store, 150 * KB) as place, ExitStack() as hands:
        paths = [hands.enter_context(place.at_hand(name.removeprefix("slides/"))) for name in NAMES]
        assert [path.read_bytes() for path in paths] == [*BODIES.values()]
    assert size() <= 150 * KB


def test_slides_may_be_wanted_in_another_order_than_was_said(store: BlobStore) -> None:
    with opened(store, 350 * KB) as place:
        for name in reversed(NAMES):
            assert read(place, name) == BODIES[name]
            assert size() <= 450 * KB  # what is waited for comes beside what was brought ahead
    assert size() <= 350 * KB


def test_a_slide_that_is_shown_twice_is_brought_once(store: BlobStore) -> None:
    events: list[Event] = []
    with opened(store, 0, expected=["00.tif", "01.tif", "00.tif"], events=events) as place:
        for name in ("00.tif", "01.tif", "00.tif"):
            read(place, name)
    assert fetched(events) == [NAMES[0], NAMES[1]]


def test_the_last_used_stay(store: BlobStore) -> None:
    with opened(store, expected=["00.tif", "01.tif", "02.tif"]) as place:
        for name in ("01.tif", "02.tif", "00.tif"):
            read(place, name)
    set_used({"01.tif": 30, "02.tif": 20, "00.tif": 10})
    with opened(store, 300 * KB, expected=["07.tif"]) as place:
        assert read(place, "07.tif") == BODIES[NAMES[7]]
        assert sorted(cached()) == ["00.tif", "02.tif", "07.tif"]


def set_used(minutes: Mapping[str, int]) -> None:
    """Let slides in the cache have been used so many minutes ago."""
    for path in cache().rglob("*.tif"):
        os.utime(path, ns=(time.time_ns() - 60 * 10**9 * minutes[path.name], path.stat().st_mtime_ns))


@pytest.mark.parametrize("others", [(), ("08.tif", "09.tif", "07.tif", "06.tif")])
def test_using_a_slide_makes_it_the_last_used_and_it_is_still_known(store: BlobStore, others: Sequence[str]) -> None:
    with opened(store, 400 * KB, expected=["00.tif", "01.tif", "02.tif"]) as place:
        for name in ("00.tif", "01.tif", "02.tif"):
            read(place, name)
    set_used({"00.tif": 30, "01.tif": 20, "02.tif": 10})
    events: list[Event] = []
    with opened(store, 400 * KB, expected=["00.tif", *others], events=events) as place:
        assert place.is_read_twice == (not others)
        with place.at_hand("00.tif"):  # it is not read: that, too, may note the time, on some disks
            pass
    assert NAMES[0] not in fetched(events)
    used = {path.name: path.stat().st_atime for path in cache().rglob("0[012].tif")}
    assert max(used, key=lambda name: used[name]) == "00.tif"


def test_partial_files_that_nobody_goes_on_with_make_room(store: BlobStore) -> None:
    with opened(store, expected=["00.tif"]) as place:
        read(place, "00.tif")
    (brought,) = cache().rglob("00.tif")
    brought.with_name(".99.tif.01234567.himl-part").write_bytes(bytes(100 * KB))
    set_used({"00.tif": 10})
    os.utime(brought.with_name(".99.tif.01234567.himl-part"), (0, 0))
    with opened(store, 250 * KB, expected=["05.tif"]) as place:
        read(place, "05.tif")
    assert sorted(cached()) == ["00.tif", "05.tif"]


def test_folders_that_are_empty_go(folder: Path, tmp_path: Path) -> None:
    write_files(folder, {"slides/deep/er/a.tif": b"a"})
    database = Database(tmp_path / "second.db", create=True)
    with opened(listed(folder, database), 0) as place:
        assert read(place, "deep/er/a.tif") == b"a"
    database.close()
    (root,) = (path for path in cache().iterdir() if path.is_dir() and path.name != IN_USE)
    assert [path for path in root.iterdir() if path.is_dir()] == []


def test_files_that_several_slides_share_stay_while_one_uses_them(folder: Path, tmp_path: Path) -> None:
    write_files(folder, {f"slides/{name}.dcm": name.encode() * 10 for name in "abc"})
    database = Database(tmp_path / "second.db", create=True)
    with opened(listed(folder, database), 0, expected=["a.dcm", "b.dcm"]) as place:
        with place.at_hand("a.dcm") as path:
            assert read(place, "b.dcm") == b"b" * 10
            assert sorted(each.name for each in path.parent.glob("*.dcm")) == ["a.dcm", "b.dcm", "c.dcm"]
        assert read(place, "a.dcm") == b"a" * 10
    database.close()
    assert cached() == {}


def test_a_full_disk_ends_it_in_one_line(store: BlobStore, small_disk: SmallDisk, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not small_disk.is_shared:
        pytest.skip("the disk is seen by other processes only")
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk.folder))
    write_files(folder, {"slides/huge.tif": bytes(6_000 * KB)})
    events: list[Event] = []
    database = Database(tmp_path / "second.db", create=True)
    with opened(listed(folder, database), expected=["00.tif", "huge.tif", "01.tif"], events=events) as place:
        assert not place.is_read_twice
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


def test_room_is_made_for_as_many_slides_as_fit() -> None:
    one = SlideCache("place", 350)
    assert one.reserve([{"a": 100, "b": 100}, {"c": 100}, {"d": 100}], at_any_rate=False) == 2
    assert one.reserve([{"d": 100}], at_any_rate=False) == 0
    assert one.reserve([{"a": 100}], at_any_rate=False) == 1
    two = SlideCache("place", 350)
    assert two.reserve([{"d": 100}], at_any_rate=False) == 0
    assert two.reserve([{"c": 100, "d": 50}], at_any_rate=False) == 1
    one.release(["a", "b"])
    assert one.reserve([{"e": 150}], at_any_rate=False) == 0
    one.release(["a"])
    assert one.reserve([{"e": 150}], at_any_rate=False) == 1
    assert one.reserve([{"f": 9000}, {"g": 1}], at_any_rate=True) == 1
    one.close()
    assert two.reserve([{"f": 200}], at_any_rate=False) == 1
    two.close()
