"""Tests of downloads in separate processes: killed ones, full disks, and several ranks, and where their progress is
stored, lost or cannot be saved.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import pytest

from himl_cli.core.blobs import FileFailure, Refused, TransferResult
from himl_cli.core.errors import HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Event, Notice
from himl_cli.services.transfer.digests import FileDigest
from himl_cli.services.transfer.download import LARGE, PIECE, SMALL, download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.services.transfer.ranks import IDLE_SECONDS, rank_zero_only
from himl_cli.services.transfer.state import KEPT_DAYS
from himl_cli.workspaces.azure.storage.blob_upload import BLOCK, BlockReader, MemoryBudget
from tests.conftest import lacking
from tests.services.transfer.stores import (
    MemoryStore,
    bodies,
    files_in,
    let_through,
    numbers,
    pattern,
    rewrite_unnoticeably,
    stop_at,
)
from tests.support.folders import SmallDisk, meetings, state_of
from tests.support.running import write_files
from tests.support.stores import sending

ROOT = Path(__file__).parents[3]
HEADER = """
import json, sys, time
from pathlib import Path
from himl_cli.core.errors import HimlError
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.services.transfer.stores import MemoryStore, bodies, pattern
folder = Path(sys.argv[1])
"""


def script(body: str) -> list[str]:
    return [sys.executable, "-c", HEADER + textwrap.dedent(body)]


def killed(folder: Path, store: str, name: str, offset: int = 0) -> None:
    """Download *store* to *folder* in a process that is killed when it reaches that offset of the blob *name*."""
    source = f"""
    import threading
    def tell(request, offset):
        while any(thread.name == "flush" for thread in threading.enumerate()):
            time.sleep(0.001)  # all pieces before the last two are then on the disk
        if request.blob.name == "{name}" and offset >= {offset}:
            print("nearly there", flush=True)
            time.sleep(60)

    download(MemoryStore({store}, before_piece=tell), DownloadRequest(folder))
    """
    with subprocess.Popen([*script(source), str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "nearly there\n"
        process.kill()


@pytest.mark.large("downloads a large file")
def test_killed_download_is_resumed_and_verified_by_content(tmp_path: Path) -> None:
    size = LARGE + 2 * PIECE
    store = MemoryStore({**bodies(600), "zbig": pattern(size), "zz": b"last"})
    killed(tmp_path, f'{{**bodies(600), "zbig": pattern({size}), "zz": b"last"}}', "zbig", size - (2 << 20))
    victim = tmp_path / "outputs/00003.bin"
    before = files_in(tmp_path)
    rewrite_unnoticeably(victim, b"?" * victim.stat().st_size)  # as a power cut may do
    result = download(store, DownloadRequest(tmp_path))
    landed = {name: body for name, body in before.items() if not name.endswith(".himl-part")}
    missing = {name: body for name, body in bodies(600).items() if name not in landed}  # of the last group
    assert {**landed, **missing} == bodies(600)
    assert victim.name in {name.rpartition("/")[2] for name in landed}
    assert (result.files, result.skipped) == (2 + len(missing), 599 - len(missing))
    assert result.differing == ("outputs/00003.bin",)
    assert files_in(tmp_path) == {**store.bodies, "outputs/00003.bin": victim.read_bytes()}
    assert store.moved <= PIECE + 4 + sum(map(len, missing.values())), (
        "only what is missing of the large file, and the last one"
    )
    verified = tmp_path / "outputs/00004.bin"
    rewrite_unnoticeably(verified, b"?" * verified.stat().st_size)
    assert download(store, DownloadRequest(tmp_path)).differing == ("outputs/00003.bin",), "it is not read again"


# The file with the id of this start of the machine, and what takes its place: that of another start, or no file
OTHER_STARTS = ('mount --bind "$0" /proc/sys/kernel/random/boot_id', "mount -t tmpfs none /proc/sys/kernel/random")


def in_another_start(tmp_path: Path, start: str, source: str, *arguments: str) -> str:
    """What *source* prints for the folder *tmp_path* in another *start* of the machine, by default in this one."""
    other = tmp_path / "boot_id"
    other.write_text("another")
    prefix = ["unshare", "-m", "sh", "-c", f'{start} && exec "$@"', str(other)] if start else []
    command = [*prefix, *script(source), str(tmp_path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if start and done.returncode and ("mount" in done.stderr or "unshare" in done.stderr):
        lacking("root, for another start of the machine")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_after_a_restart_only_ranges_that_were_flushed_count(tmp_path: Path) -> None:
    source = """
    from himl_cli.services.transfer.state import TransferState
    with TransferState(folder, print) as state:
        if sys.argv[2] == "write":
            state.begin_part("model", "blob")
            state.add_range("model", "blob", 0, 20, is_on_disk=True)
            state.add_range("model", "blob", 20, 30, is_on_disk=False)
        print(state.ranges("model", "blob"))
    """

    def ranges(action: str, start: str = "") -> str:
        return in_another_start(tmp_path, start, source, action)

    assert ranges("write") == ranges("read") == "[(0, 20), (20, 30)]"
    for start in OTHER_STARTS:
        assert ranges("read", start) == "[(0, 20)]"
    assert ranges("write", OTHER_STARTS[1]) == "[(0, 20)]", "a system that cannot tell starts apart"


def test_after_a_restart_a_killed_download_fetches_only_its_last_pieces(tmp_path: Path) -> None:
    size = LARGE + 2 * PIECE
    killed(tmp_path, f'{{"model": pattern({size})}}', "model", size - PIECE)
    source = f"""
    store = MemoryStore({{"model": pattern({size})}})
    download(store, DownloadRequest(folder))
    print(store.moved)
    """
    assert in_another_start(tmp_path, OTHER_STARTS[0], source) == str(2 * PIECE)
    assert (tmp_path / "model").read_bytes() == pattern(size)


def test_another_himl_in_the_same_folder_is_waited_for(tmp_path: Path) -> None:
    source = """
    def tell(request, offset):
        print("begun", flush=True)
        sys.stdin.readline()

    download(MemoryStore(dict(bodies(3)), before_piece=tell), DownloadRequest(folder), lambda event: None)
    """
    with subprocess.Popen(
        [*script(source), str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "begun\n"
        store, events = MemoryStore(dict(bodies(3))), list[Event]()

        def let_first_go_on(event: Event) -> None:
            events.append(event)
            assert first.stdin is not None
            if len(events) == 1:
                first.stdin.write("\n\n\n")
                first.stdin.flush()

        result = download(store, DownloadRequest(tmp_path), let_first_go_on)
        assert "Waiting for it" in str(events[0])
    assert (result.files, result.skipped, store.moved) == (0, 3, 0)


@pytest.mark.large("takes long, and other tests run its branches")
def test_full_disk_is_an_error_and_leaves_no_half_file(small_disk: SmallDisk) -> None:
    source = f"""
    store = MemoryStore({{name: pattern(1 << 20) for name in "abcde"}})
    outcomes = []

    def attempt(store, where):
        try:
            outcomes.append(["ok", download(store, DownloadRequest(where)).files])
        except HimlError as err:
            outcomes.append([err.code, str(err), err.exit_code])
        outcomes.append({{path.name: path.stat().st_size for path in where.glob("[!.]*")}} if where.exists() else None)

    ballast = folder / ".ballast"
    ballast.write_bytes(b"x" * (1 << 19))
    attempt(store, folder)
    outcomes.append([path.name for path in folder.glob(".*.himl-part")])
    del store.bodies["d"], store.bodies["e"]
    ballast.unlink()
    attempt(store, folder)
    for path in folder.iterdir():
        path.unlink()
    attempt(MemoryStore({{"big": pattern({SMALL} + (1 << 20))}}), folder)
    for path in folder.iterdir():
        path.unlink()
    with open(ballast, "wb", buffering=0) as full:
        try:
            while full.write(b"x" * 4096):
                pass
        except OSError:
            pass
    attempt(store, folder / "new")
    print(json.dumps(outcomes))
    """
    done = subprocess.run(
        [*small_disk.prefix, *script(source), str(small_disk.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    full, kept, parts, again, complete, large, nothing, no_room, _ = json.loads(done.stdout)
    assert (full[0], full[2], "no space left" in full[1]) == ("disk_full", 1, True)
    assert (set(kept.values()), parts) == ({1 << 20}, [])
    assert (again, complete) == (["ok", 3 - len(kept)], dict.fromkeys("abc", 1 << 20))
    assert (large[0], nothing) == ("disk_full", {})
    assert (no_room[0] in ("disk_full", "disk_failed"), no_room[2]) == (True, 1)


def interrupt_repeatedly(act: Callable[[], object]) -> None:
    """Call *act* repeatedly, until a signal has interrupted it 300 times, each time at a different point."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    dice, before = random.Random(7), signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + dice.random() * 0.0005)
                while True:
                    act()
            except KeyboardInterrupt:
                pass
    finally:
        signal.signal(signal.SIGALRM, before)


def ends(act: Callable[[], object]) -> bool:
    """Check that *act* returns, on a separate thread."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(60)
    return not thread.is_alive()


@pytest.mark.skipif(os.name == "nt", reason="a timer's signals need POSIX")
@pytest.mark.skipif("COVERAGE_PROCESS_START" in os.environ, reason="an interrupted record of coverage keeps its lock")
def test_interrupted_threads_leave_no_lock_behind(tmp_path: Path) -> None:
    reader = BlockReader(sending(tmp_path / "1", "x", bytes(2 * BLOCK)), MemoryBudget(1 << 30))
    first = reader.next
    interrupt_repeatedly(lambda: first() and None)
    assert ends(reader.close)
    (tmp_path / "2").write_bytes(b"x")
    digest = FileDigest(str(tmp_path / "2"), 1, SimpleQueue())
    digest.written(0, 1)
    digest.catch_up(memoryview(bytearray(1)))
    interrupt_repeatedly(digest.result)
    assert ends(digest.cancel)


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def downloaded(store: MemoryStore, folder: Path, **options: Any) -> tuple[int, int, int]:
    return numbers(download(store, DownloadRequest(folder, **options)))


def test_moved_target_is_resumed_by_md5(tmp_path: Path) -> None:
    store = MemoryStore(
        {"a": b"content", "b": b"1", "big": pattern(2 * SMALL)}, before_piece=stop_at(SMALL, KeyboardInterrupt())
    )
    downloaded(MemoryStore({"a": b"content", "b": b"1"}), tmp_path / "old")
    with pytest.raises(KeyboardInterrupt):
        downloaded(store, tmp_path / "old")
    store.before_piece = let_through
    rewrite_unnoticeably(tmp_path / "old" / "a", b"c0ntent")
    folder = (tmp_path / "old").rename(tmp_path / "new")
    store.moved = 0
    again = download(store, DownloadRequest(folder))
    assert (numbers(again), again.differing, store.moved) == ((1, 1, 0), ("a",), 2 * SMALL)
    assert names_in(folder) == store.bodies.keys()


def test_download_without_usable_cache_works_and_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"no folder": ""})
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "no folder"))
    store = MemoryStore({**bodies(3), "big": pattern(2 * SMALL)}, before_piece=stop_at(SMALL, ServiceFailed("no more")))
    events: list[Event] = []
    with pytest.raises(ServiceFailed):
        download(store, DownloadRequest(tmp_path / "out"), events.append)
    left = names_in(tmp_path / "out")
    store.before_piece = let_through
    again = download(store, DownloadRequest(tmp_path / "out"), events.append)
    assert left <= bodies(3).keys(), "nobody could go on with a part"
    assert (again.problem(), files_in(tmp_path / "out")) == (None, store.bodies)
    warnings = [event.text.partition(":")[0] for event in events if isinstance(event, Notice)]
    assert warnings == ["himl cannot record downloaded files, because its cache cannot be used"]


def test_state_of_folders_long_gone_is_removed(tmp_path: Path) -> None:
    names = ("stays", "gone", "elsewhere", "gone long ago", "elsewhere long ago")
    for name in names:
        downloaded(MemoryStore({"a": b"1"}), tmp_path / name)
    entries = {name: state_of(tmp_path / name).parent for name in names}
    for name, entry in entries.items():
        if name.startswith("elsewhere"):
            (entry / "target").write_bytes(b"another-machine\n" + os.fsencode(tmp_path / name))
        if name.endswith("long ago") or name == "stays":
            old = (entry / "target").stat().st_mtime - (KEPT_DAYS + 1) * 24 * 3600
            os.utime(entry / "target", (old, old))
        if name.startswith("gone"):
            shutil.rmtree(tmp_path / name)
    # Each process cleans up once.
    another = script('download(MemoryStore({"a": b"1"}), DownloadRequest(folder))')
    subprocess.run([*another, str(tmp_path / "new")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert {name for name, entry in entries.items() if entry.exists()} == {"stays", "gone", "elsewhere"}


RANK = """
import json, os, sys, time
from pathlib import Path
from himl_cli.core.errors import HimlError
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.core.blobs import TransferResult
folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
folder.mkdir(exist_ok=True)
for step in plan["steps"]:
    def act():
        with open(folder / "acted", "a") as record:
            record.write(f"{os.environ['LOCAL_RANK']} {step['say']}\\n")
        time.sleep(step.get("sleep", 0))
        if step["say"] == "die":
            os._exit(9)
        return TransferResult(files=len(step["say"]) + 100 * int(os.environ["LAUNCH"]))
    try:
        print(json.dumps(["ok", rank_zero_only(folder, step["key"], act, wait_seconds=plan.get("wait", 90)).files]))
    except HimlError as err:
        print(json.dumps([err.code, str(err), err.hint, err.exit_code]))
"""
LAUNCHER = """
import json, os, subprocess, sys, time
orders, pause, command = json.loads(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
for number, order in enumerate(orders):
    running = {}
    for rank in order:
        environment = {**os.environ,
            "LOCAL_RANK": str(rank), "RANK": str(rank), "LOCAL_WORLD_SIZE": "8", "LAUNCH": str(number)}
        running[rank] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        time.sleep(pause)
    lines = {rank: process.stdout.read().splitlines() for rank, process in running.items()}
    said = {rank: [json.loads(line) for line in printed] for rank, printed in lines.items()}
    for process in running.values():
        process.wait()
    print(json.dumps(said))
"""
"""It collects exit codes after all ranks have ended. A process that ended remains visible until its code is
collected.
"""


X = {"steps": [{"say": "x", "key": "k"}]}
LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="NEEDS /proc to know the launcher, and when a rank began"
)


def launches(
    folder: Path,
    orders: Sequence[Sequence[int]],
    plan: Mapping[str, Any],
    *,
    pause: float = 0.0,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> list[dict[str, list[list[Any]]]]:
    """Run a launcher that starts ranks in these *orders*, each after all ranks of the previous one have ended.

    Return the output of each rank. LAUNCH is the number of the order.
    """
    command = [
        sys.executable,
        "-c",
        LAUNCHER,
        json.dumps(orders),
        str(pause),
        sys.executable,
        "-c",
        RANK,
        str(folder),
        json.dumps(plan),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def acted(folder: Path) -> list[str]:
    return (folder / "acted").read_text().splitlines()


def test_ranks_do_not_wait_for_a_rank_0_that_died(tmp_path: Path) -> None:
    (said,) = launches(tmp_path, [[0, 1, 2]], {"steps": [{"say": "die", "key": "k", "sleep": 0.5}]})
    assert said["0"] == []
    assert [(said[rank][0][0], "died" in said[rank][0][1], said[rank][0][3]) for rank in "12"] == [
        ("failed", True, 1)
    ] * 2


@LINUX
def test_second_launch_acts_itself_and_late_ranks_follow(tmp_path: Path) -> None:
    said = launches(tmp_path / "second", [[0], [1, 0]], X, pause=0.3, variables={"SLURM_LOCALID": "0"})
    assert said == [{"0": [["ok", 1]]}, {rank: [["ok", 101]] for rank in "01"}]
    said = launches(tmp_path, [[0], [2, 1]], {"steps": [{"say": "x", "key": "k", "sleep": 1}], "wait": 0.3})
    assert said == [{"0": [["ok", 1]]}, {rank: [["ok", 101]] for rank in "12"}]
    assert len(acted(tmp_path)) == 2


def test_wait_for_rank_0_is_bounded_and_its_outcome_handed_over(tmp_path: Path) -> None:
    with pytest.raises(HimlError, match=r"did not begin within .*local rank 1 \(LOCAL_RANK\)\.$") as caught:
        rank_zero_only(tmp_path, "k", TransferResult, environment={"LOCAL_RANK": "1"}, wait_seconds=0.1)
    assert "One launcher must start all ranks" in caught.value.hint
    for rank in "01":
        rank_zero_only(tmp_path, "again", TransferResult, environment={"LOCAL_RANK": rank})
    with pytest.raises(HimlError, match=r"local rank 1 \(LOCAL_RANK\)\.$"):
        rank_zero_only(tmp_path, "again", TransferResult, environment={"LOCAL_RANK": "1"}, wait_seconds=0.1)
    result = TransferResult(
        1, 2, 3.5, 4, 5, ("d",), (Refused("r\udcff", "why"),), (FileFailure("f", "m", "integrity_failed"),)
    )
    environment = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    assert rank_zero_only(tmp_path, "handed", lambda: result, environment=environment) == result
    assert rank_zero_only(tmp_path, "handed", TransferResult, environment={**environment, "LOCAL_RANK": "1"}) == result
    seconds = [
        rank_zero_only(tmp_path, "s", lambda: TransferResult(seconds=0.04996), environment={"LOCAL_RANK": rank}).seconds
        for rank in "01"
    ]
    assert seconds == [0.05, 0.05]

    def fail() -> TransferResult:
        raise NotFound("nothing there", hint="look")

    for rank, kind in (("0", NotFound), ("1", HimlError)):
        with pytest.raises(kind, match="nothing there") as caught:
            rank_zero_only(tmp_path, "failing", fail, environment={"LOCAL_RANK": rank})
        assert (caught.value.code, caught.value.exit_code, caught.value.hint) == ("not_found", 3, "look")


def test_files_of_old_launches_are_removed(tmp_path: Path) -> None:
    def begin(port: str) -> None:
        rank_zero_only(tmp_path, "k", TransferResult, environment={"MASTER_PORT": port, "LOCAL_RANK": "0"})

    begin("1")
    (old,) = meetings().iterdir()
    long_ago = time.time() - IDLE_SECONDS - 60
    for path in (*old.rglob("*"), old):
        os.utime(path, (long_ago, long_ago))
    begin("2")
    begin("3")
    left = {*meetings().iterdir()}
    assert (old in left, len(left)) == (False, 2)
