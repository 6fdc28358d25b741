"""Slides that are brought from a store to the user's cache: which, when, and how much of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from threading import enumerate as enumerate_threads

import platformdirs
import pytest
from filelock import FileLock

from himl_cli.core.errors import DiskFailed, HimlError, Interrupted, NotAllowed, ServiceFailed
from himl_cli.core.events import Event, Finished, Notice, ignore
from himl_cli.core.file_tree import STATE_NAME
from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.checkpoints.chosen_files import ChosenFiles
from himl_cli.services.montage.ahead import HOPELESS
from himl_cli.services.montage.cache_pins import FOLDER as IN_USE
from himl_cli.services.montage.places import SlidePlace
from himl_cli.services.montage.slide_cache import SlideCache
from himl_cli.services.montage.stored_place import open_stored
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.blobs import DatastoreFolder
from himl_cli.workspaces.local.database import Database
from tests.azure_blobs import DEFAULT, hasty_store, storage_that_lists
from tests.running import write_files
from tests.servers.azureml.faults import Drip, Stall, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.special_folders import SmallDisk

KB = 1000
NAMES = [f"slides/{number:02}.tif" for number in range(10)]
BODIES = {name: bytes([place]) * (100 * KB) for place, name in enumerate(NAMES)}
LARGE = 1_000 * KB * KB


def cache() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "slides"


def cached() -> dict[str, bytes]:
    """What slides the cache holds, by file name."""
    return {path.name: path.read_bytes() for path in cache().rglob("*") if path.is_file() and path.suffix in (".tif", ".dcm", ".himl-part")}


def size() -> int:
    """Bytes of slides in the cache."""
    return sum(map(len, cached().values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Iterator[BlobStore]:
    """The slides as a store that does not say where they lie."""
    write_files(folder, BODIES)
    database = Database(tmp_path / "workspace.db", create=True)
    yield listed(folder, database)
    database.close()


def listed(folder: Path, database: Database) -> BlobStore:
    """*folder* as it is now."""
    files = DatastoreFolder(folder, "lab", database)
    return ChosenFiles(files, (blob for page in files.list() for blob in page))


@contextmanager
def opened(store: BlobStore, limit: int = LARGE, expected: Sequence[str] = (), events: list[Event] | None = None) -> Iterator[SlidePlace]:
    """The place `slides`; *expected* are names in it, all of them by default."""
    with open_stored(store, "slides", limit, ignore if events is None else events.append) as (place, _):
        place.expect(expected or [*place.names()])
        yield place


def read(place: SlidePlace, name: str) -> bytes:
    with place.at_hand(name.removeprefix("slides/")) as path:
        return path.read_bytes()


def fetched(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, Finished)]


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


ANOTHER = """
import sys
from himl_cli.services.montage.slide_cache import SlideCache
cache = SlideCache(sys.argv[1], 10**9)
assert cache.reserve([{name: 100_000 for name in sys.argv[2:]}], at_any_rate=True) == 1
print("here", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_himl(store: BlobStore, *names: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has slides of the store in use until the end, or until it is killed."""
    command = [sys.executable, "-c", ANOTHER, store.origin, *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


def test_what_another_himl_uses_stays(store: BlobStore) -> None:
    with opened(store, expected=["00.tif", "01.tif"]) as place:
        read(place, "00.tif")
        read(place, "01.tif")
    with another_himl(store, NAMES[0]):
        with opened(store, 0, expected=["05.tif"]) as place:
            read(place, "05.tif")
        assert sorted(cached()) == ["00.tif"]
        with opened(store, 250 * KB) as place:
            assert [read(place, name) for name in NAMES] == [*BODIES.values()]
        assert cached()["00.tif"] == BODIES[NAMES[0]]
        assert size() <= 250 * KB


def test_a_himl_that_was_killed_uses_nothing_any_more(store: BlobStore) -> None:
    with opened(store, expected=["00.tif"]) as place:
        read(place, "00.tif")
    with another_himl(store, NAMES[0]) as process:
        process.kill()
        process.wait()
        with opened(store, 0, expected=["05.tif"]) as place:
            read(place, "05.tif")
    assert (cached(), [*(cache() / IN_USE).iterdir()]) == ({}, [])


def test_two_montages_at_once_share_the_cache(store: BlobStore, folder: Path, tmp_path: Path) -> None:
    database = Database(tmp_path / "second.db", create=True)
    seen: list[bytes] = []

    def use() -> None:
        with opened(listed(folder, database), 250 * KB) as place:
            seen.extend(read(place, name) for name in NAMES)

    thread = Thread(target=use)
    thread.start()
    with opened(store, 250 * KB) as place:
        assert [read(place, name) for name in NAMES] == [*BODIES.values()]
    thread.join()
    database.close()
    assert seen == [*BODIES.values()]
    assert size() <= 250 * KB


def test_that_another_himl_writes_to_the_cache_is_said_once(store: BlobStore) -> None:
    """Not once a transfer: here each slide is one."""
    events: list[Event] = []
    with opened(store, 0, events=events) as place:
        for name in NAMES[:3]:
            (root,) = (path for path in cache().iterdir() if path.is_dir() and path.name != IN_USE)
            with ThreadPoolExecutor(1) as pool:
                with FileLock(root / f"{STATE_NAME}.lock"):
                    came = pool.submit(read, place, name)
                    time.sleep(0.15)
                assert came.result() == BODIES[name]
    assert sum("Another himl is writing" in event.text for event in events if isinstance(event, Notice)) == 1


def test_partial_files_that_nobody_goes_on_with_make_room(store: BlobStore) -> None:
    with opened(store, expected=["00.tif"]) as place:
        read(place, "00.tif")
    (brought,) = cache().rglob("00.tif")
    brought.with_name(".99.tif.himl-part").write_bytes(bytes(100 * KB))
    set_used({"00.tif": 10})
    os.utime(brought.with_name(".99.tif.himl-part"), (0, 0))
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


def azure_place(azure: StagedWorkspace, names: Sequence[str] = NAMES) -> BlobStore:
    azure.put_blobs(DEFAULT, {name: BODIES.get(name, b"x") for name in names})
    return hasty_store(azure)


def unreadable(place: SlidePlace, name: str) -> str:
    with pytest.raises(SlideUnreadable) as caught:
        read(place, name)
    return str(caught.value)


def test_from_azure_only_what_is_expected_is_asked_for(azure_environment: StagedWorkspace) -> None:
    with opened(azure_place(azure_environment), expected=["02.tif", "04.tif"]) as place:
        assert read(place, "04.tif") == BODIES[NAMES[4]]
        assert read(place, "02.tif") == BODIES[NAMES[2]]
    asked = azure_environment.requests(r"GET .*/slides/\d\d")
    assert sorted(line.partition("?")[0].rpartition("/")[2] for line in asked) == ["02.tif", "04.tif"]


def test_a_slide_that_cannot_be_brought_fails_alone(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/slides/03\.tif", times=None)
    with opened(store) as place:
        assert unreadable(place, "03.tif") == "it lies in the archive tier"
        assert [read(place, name) for name in NAMES if name != NAMES[3]] == [BODIES[name] for name in NAMES if name != NAMES[3]]
        assert unreadable(place, "03.tif") == "it lies in the archive tier"


def test_a_slide_is_told_of_the_file_that_is_lacking(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment, ["slides/a.mrxs", "slides/a/Data.dat", "slides/a/Slidedat.ini"])
    azure_environment.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/slides/a/Data\.dat", times=None)
    with opened(store, expected=["a.mrxs"]) as place:
        assert unreadable(place, "a.mrxs") == "'slides/a/Data.dat', which belongs to it: it lies in the archive tier"


def test_once_nothing_is_to_be_had_the_rest_is_not_tried(azure_environment: StagedWorkspace) -> None:
    names = [f"slides/{number:03}.tif" for number in range(150)]
    store = azure_place(azure_environment, names)
    azure_environment.stage.faults.add(Status(403, code="AuthorizationFailure", message="Not from here."), r"GET .*/slides/(?!000)", times=None)
    with opened(store) as place:
        assert read(place, names[0]) == b"x"
        reasons = [unreadable(place, name) for name in names[1:]]
    assert len({*reasons}) == 2
    assert reasons[-1] == f"{reasons[0]}. So it was for the slides before it; this one was not tried"
    asked = azure_environment.requests(r"GET .*/slides/\d")
    assert HOPELESS <= len({line.partition("?")[0] for line in asked}) < 100


NOT_FROM_HERE = Status(403, code="AuthorizationFailure", message="Not from here.")


@pytest.mark.parametrize(("fault", "kind"), [(NOT_FROM_HERE, NotAllowed), (Status(503), ServiceFailed)])
@pytest.mark.parametrize("limit", [0, LARGE])
def test_a_store_that_gives_nothing_ends_it(azure_environment: StagedWorkspace, fault: Status, kind: type[HimlError], limit: int) -> None:
    store = azure_place(azure_environment, NAMES[:3])
    azure_environment.stage.faults.add(fault, r"GET .*/slides/\d", times=None)
    with opened(store, limit) as place, pytest.raises(kind, match=f"None of the 3 slides came from {store.label}: .*[.]$") as caught:
        try_all(place, NAMES[:3])
    assert "\n" not in str(caught.value)


def try_all(place: SlidePlace, names: Sequence[str]) -> None:
    """Read each of them, as a montage does."""
    for name in names:
        with suppress(SlideUnreadable):
            read(place, name)


def test_a_store_that_gives_none_of_many_is_asked_for_some(azure_environment: StagedWorkspace) -> None:
    names = [f"slides/{number:03}.tif" for number in range(150)]
    store = azure_place(azure_environment, names)
    azure_environment.stage.faults.add(NOT_FROM_HERE, r"GET .*/slides/\d", times=None)
    with opened(store) as place, pytest.raises(NotAllowed, match="None of the 150 slides came"):
        read(place, names[-1])
    assert len(azure_environment.requests(r"GET .*/slides/\d")) < 100


@pytest.mark.parametrize("names", [["slides/a.tif"], ["slides/a.tif", "slides/b.tif"]])
def test_slides_that_fail_each_for_itself_do_not_end_it(azure_environment: StagedWorkspace, names: Sequence[str]) -> None:
    store = azure_place(azure_environment, names)
    azure_environment.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/slides/a", times=None)
    azure_environment.stage.faults.add(NOT_FROM_HERE, r"GET .*/slides/b", times=None)
    with opened(store, 0) as place:
        assert "archive" in unreadable(place, names[0])
        assert all("AuthorizationFailure" in unreadable(place, name) for name in names[1:])


def test_a_store_that_cannot_be_listed_ends_it_at_once(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Status(403, code="AuthorizationFailure", message="Not from here."), "comp=list", times=None)
    with pytest.raises(NotAllowed), opened(store):
        pass


def test_a_name_that_no_disk_takes_fails_alone() -> None:
    with storage_that_lists(["slides/a.tif", "slides/b\\..\\..\\c.tif"], b"body") as store, opened(store, expected=["a.tif", "b\\..\\..\\c.tif"]) as place:
        assert read(place, "a.tif") == b"body"
        assert unreadable(place, "b\\..\\..\\c.tif") == "it cannot be kept here: it has '.' or '..' in it"


def test_whoever_waits_is_let_go_when_it_is_stopped_and_nothing_half_has_a_name(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Stall(20.0, after=50 * KB), r"GET .*/slides/\d\d", times=None)
    outcomes: list[HimlError] = []

    def wait() -> None:
        with pytest.raises(Interrupted) as caught:
            read(place, NAMES[0])
        outcomes.append(caught.value)

    thread = Thread(target=wait)
    with opened(store) as place:
        thread.start()
        while not azure_environment.requests(r"GET .*/slides/"):
            time.sleep(0.02)
        began = time.monotonic()
        place.stop()
        thread.join()
        assert time.monotonic() - began < 2
    assert time.monotonic() - began < 5
    assert len(outcomes) == 1
    assert [name for name in cached() if not name.endswith(".himl-part")] == []


def test_what_is_under_way_ends_when_the_place_is_left(azure_environment: StagedWorkspace) -> None:
    azure_environment.put_blob(DEFAULT, "slides/large.tif", bytes(8_000 * KB))
    store = hasty_store(azure_environment)
    azure_environment.stage.faults.add(Drip(1_000 * KB), r"GET .*/slides/large", times=None)
    before = enumerate_threads()
    with opened(store):
        while not azure_environment.requests(r"GET .*/slides/"):
            time.sleep(0.02)
    deadline = time.monotonic() + 4
    while [thread for thread in enumerate_threads() if thread.name == "himl-slides" and thread not in before]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert [name for name in cached() if not name.endswith(".himl-part")] == []


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


def test_the_service_may_be_gone_in_the_middle(azure_environment: StagedWorkspace) -> None:
    store = azure_place(azure_environment)
    azure_environment.stage.faults.add(Status(503), r"GET .*/slides/\d\d", times=None, skip=4)
    with opened(store) as place:
        said = [outcome(place, name) for name in NAMES]
    assert said.count("read") == 4
    assert all("503" in each or "busy" in each.lower() for each in said if each != "read"), said


def outcome(place: SlidePlace, name: str) -> str:
    try:
        assert read(place, name) == BODIES[name]
    except SlideUnreadable as err:
        return str(err)
    except ServiceFailed as err:
        raise AssertionError("one slide, not the montage") from err
    return "read"
