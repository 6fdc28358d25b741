"""The cache of slides where several himl use it at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event as ThreadingEvent
from threading import Thread

from filelock import FileLock

from himl_cli.core.events import Event, Notice
from himl_cli.services.montage.cache_pins import FOLDER as IN_USE
from himl_cli.services.montage.stored_place import open_stored
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.database import Database
from tests.services.montage.stored_slides import BODIES, KB, NAMES, cache, cached, listed, opened, read, size
from tests.services.montage.stored_slides import folder as folder
from tests.services.montage.stored_slides import store as store
from tests.user_cache import state_of

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
    """Not once a transfer: here each slide is one. A slide beyond the limit is not brought before it is asked for."""
    said: list[str] = []
    is_said = ThreadingEvent()

    def hear(event: Event) -> None:
        if isinstance(event, Notice) and "Another himl is writing" in event.text:
            said.append(event.text)
            is_said.set()

    with open_stored(store, "slides", 0, hear) as (place, _), ThreadPoolExecutor(1) as pool:
        (root,) = (path for path in cache().iterdir() if path.is_dir() and path.name != IN_USE)
        place.expect(["02.tif", "00.tif", "01.tif"])
        read(place, "02.tif")
        with FileLock(state_of(root).with_name("lock")):
            coming = pool.submit(read, place, "00.tif")
            assert is_said.wait(60)
        assert coming.result(60) == BODIES[NAMES[0]]
        with FileLock(state_of(root).with_name("lock")):
            coming = pool.submit(read, place, "01.tif")
            time.sleep(0.5)
            assert not coming.done()
        assert coming.result(60) == BODIES[NAMES[1]]
    assert len(said) == 1
