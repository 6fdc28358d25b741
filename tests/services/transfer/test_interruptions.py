"""Downloads that are killed, or run out of disk, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from himl_cli.services.transfer.download import LARGE, PIECE, SMALL, download
from himl_cli.services.transfer.plan import DownloadRequest
from tests.services.transfer.arrived import files_in, rewritten_unnoticeably
from tests.services.transfer.stores import MemoryStore, bodies, pattern
from tests.support.folders import SmallDisk

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


@pytest.mark.parametrize("size", [SMALL + PIECE, LARGE + 2 * PIECE])
def test_a_killed_download_goes_on_where_it_was(tmp_path: Path, size: int) -> None:
    store = MemoryStore({**bodies(20), "outputs/zbig": pattern(size), "outputs/zz": b"last"})
    source = f"""
    def tell(request, offset):
        if request.blob.name == "outputs/zbig" and offset >= {size} - 2 * {1 << 20}:
            print("nearly there", flush=True)
            time.sleep(60)

    store = MemoryStore({{**bodies(20), "outputs/zbig": pattern({size}), "outputs/zz": b"last"}}, before_piece=tell)
    download(store, DownloadRequest(folder))
    """
    with subprocess.Popen([*script(source), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "nearly there\n"
        process.kill()
    before = files_in(tmp_path)
    result = download(store, DownloadRequest(tmp_path))

    assert {name: body for name, body in before.items() if not name.endswith(".himl-part")} == bodies(20)
    assert (files_in(tmp_path), result.problem(), result.skipped) == (store.bodies, None, 20)
    assert store.moved <= PIECE + 4, "only what is missing of the large file, and the last one"


def test_files_of_killed_download_are_verified_by_content(tmp_path: Path) -> None:
    store = MemoryStore({**bodies(600), "z": b"last"})
    source = """
    def tell(request, offset):
        if request.blob.name == "z":
            print("nearly there", flush=True)
            time.sleep(60)

    download(MemoryStore({**bodies(600), "z": b"last"}, before_piece=tell), DownloadRequest(folder))
    """
    with subprocess.Popen([*script(source), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "nearly there\n"
        process.kill()
    victim = tmp_path / "outputs/00003.bin"
    rewritten_unnoticeably(victim, b"?" * victim.stat().st_size)  # as a power cut may do
    result = download(store, DownloadRequest(tmp_path))
    again = download(store, DownloadRequest(tmp_path))
    assert (result.files, result.skipped, result.differing) == (1, 599, ("outputs/00003.bin",))
    assert again.differing == ("outputs/00003.bin",)


def test_another_himl_in_the_same_folder_is_waited_for(tmp_path: Path) -> None:
    source = """
    def tell(request, offset):
        print("begun", flush=True)
        sys.stdin.readline()

    print(download(MemoryStore(dict(bodies(3)), before_piece=tell), DownloadRequest(folder), lambda event: None).files)
    """
    with subprocess.Popen([*script(source), str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "begun\n"
        store = MemoryStore(dict(bodies(3)))
        heard: list[object] = []

        def hear(event: object) -> None:
            heard.append(event)
            assert first.stdin is not None
            if len(heard) == 1:
                first.stdin.write("\n\n\n")
                first.stdin.flush()

        result = download(store, DownloadRequest(tmp_path), hear)
        assert "waiting for it" in str(heard[0])
    assert (result.files, result.skipped, store.moved) == (0, 3, 0)


def test_a_full_disk_is_said_and_leaves_no_half_file_at_its_name(small_disk: SmallDisk) -> None:
    source = f"""
    sizes = {{"a": 1 << 20, "b": 1 << 20, "c": 1 << 20, "d": 1 << 20, "e": 1 << 20}}
    store = MemoryStore({{name: pattern(size) for name, size in sizes.items()}})
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
    done = subprocess.run([*small_disk.prefix, *script(source), str(small_disk.folder)], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    full, kept, parts, again, complete, large, nothing, no_room, _ = json.loads(done.stdout)

    assert (full[0], full[2], "no space left" in full[1]) == ("disk_full", 1, True)
    assert (set(kept.values()), parts) == ({1 << 20}, [])
    assert (again, complete) == (["ok", 3 - len(kept)], dict.fromkeys("abc", 1 << 20))
    assert (large[0], nothing) == ("disk_full", {})
    assert (no_room[0] in ("disk_full", "disk_failed"), no_room[2]) == (True, 1)
