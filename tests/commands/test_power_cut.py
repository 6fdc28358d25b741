"""What a power cut leaves: copies of a disk at moments of commands, which are mounted afterwards. Needs root."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import NEEDS
from tests.support.folders import contents, copy_image, mounted_image
from tests.support.running import PROGRAM, Himl, write_files
from tests.support.slides import slide_picture, write_tiff

MODEL = hashlib.shake_128(b"model").digest(300_000)
SCRIPT = """
import hashlib, time
from pathlib import Path

Path("outputs/model.bin").write_bytes(hashlib.shake_128(b"model").digest(300_000))
time.sleep(2.5)
"""
COMMANDS = (
    ("submit", "train.py", "-q"),
    ("datastore", "upload", "data", "data"),
    ("datastore", "download", "data", "fetched"),
    ("tiles", "slides", "--tile_size", "32", "--occupancy", "0", "--workers", "2"),
)
RESULTS = (".himl/datastores", "fetched", "outputs")  # of all commands but the first
MOMENTS = 40


def results(project: Path) -> dict[str, bytes]:
    """The files of the last commands below *project*, without those that are being written."""
    found = {f"{top}/{name}": body for top in RESULTS for name, body in contents(project / top).items()}
    return {name: body for name, body in found.items() if not any(part.startswith(".") for part in name.split("/")[1:])}


def runs(project: Path) -> Mapping[str, str]:
    """The status of each run below *project*."""
    database = project / ".himl" / "workspace.db"
    if not database.exists() or not database.stat().st_size:
        return {}
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        has_runs = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        return dict(connection.execute("SELECT id, status FROM runs")) if has_runs else {}


def check(project: Path, done: int, wanted: Mapping[str, bytes], code: Mapping[str, bytes]) -> str:
    """Check what is on the disk after a power cut once *done* commands had ended. Returns the run that can be resumed,
    empty if there is none."""
    found = results(project)
    assert {name: len(body) for name, body in found.items() if body != wanted[name]} == {}
    tops = tuple(f"{top}/" for top in RESULTS[: max(0, done - 1)])
    assert {name for name in wanted if name.startswith(tops)} <= found.keys()
    assert done == 0 or [*runs(project).values()] == ["Completed"]
    for run_id, status in runs(project).items():
        folder = project / ".himl" / "runs" / run_id
        record = folder / "job.json"
        if status == "Completed":
            assert (folder / "code" / "outputs" / "model.bin").read_bytes() == MODEL
        elif record.exists() and json.loads(record.read_bytes() or "{}").get("laid"):
            assert code.items() <= contents(folder / "code").items()
            return run_id
    return ""


def test_power_cut_leaves_no_file_without_its_content(tmp_path: Path, require_program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    image, disk, taken = tmp_path / "disk", tmp_path / "mounted", list[tuple[Path, int]]()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    os.system(f"{require_program('mkfs.ext4')} -q -F {image}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # on another disk, whose flushes say nothing of this one
    done, ended = 0, threading.Event()
    project = disk / "project"
    code = {f"lib/{number}.py": f"VALUE = {number}\n".encode() * 40 for number in range(30)} | {"train.py": SCRIPT.encode()}

    def cut() -> None:
        target, before = tmp_path / f"copy{len(taken)}", done
        copy_image(image, target)
        taken.append((target, before))

    def watch() -> None:
        while not ended.wait(0.1) and len(taken) < MOMENTS - len(COMMANDS):
            with guard:
                cut()

    guard, watcher = threading.Lock(), threading.Thread(target=watch)
    with mounted_image(image, disk) as is_mounted:
        if not is_mounted:
            pytest.skip(f"{NEEDS}a disk image that can be mounted (root, ext4 and loop devices)")  # containers lack them
        (project / "data").mkdir(parents=True)
        (project / "slides").mkdir()
        write_files(project, {name: body.decode() for name, body in code.items()})
        write_files(project, {f"data/{number}.txt": f"{number} " * 900 for number in range(150)} | {"pyproject.toml": ""})
        write_tiff(project / "slides" / "a.tiff", slide_picture(1, (320, 320)))
        os.sync()
        himl = Himl(PROGRAM, project)
        watcher.start()
        try:
            for command in COMMANDS:
                himl.ok(*command)
                with guard:
                    done += 1
                    cut()
        finally:
            ended.set()
            watcher.join()
        wanted = results(project)
    resumable = []
    for copy, at in taken:
        with mounted_image(copy, disk) as is_mounted:
            assert is_mounted
            if run_id := check(project, at, wanted, code):
                resumable.append((copy, run_id))
    assert len(taken) > 2 * len(COMMANDS), "moments between the ends of the commands"
    copy, run_id = resumable[0]
    with mounted_image(copy, disk):
        himl.ok("submit", "--resume", run_id, "-q")
        assert runs(project) == {run_id: "Completed"}
        assert check(project, 1, wanted, code) == ""
