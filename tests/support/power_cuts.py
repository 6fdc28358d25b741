"""What a power cut leaves: copies of a disk at moments of commands, which are mounted afterwards. Needs root."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from tests.support.folders import contents, copy_image, mounted_image
from tests.support.running import write_files
from tests.support.slides import slide_picture, write_tiff

MODEL = hashlib.shake_128(b"model").digest(300_000)
SCRIPT = """
import hashlib, time
from pathlib import Path

Path("outputs/model.bin").write_bytes(hashlib.shake_128(b"model").digest(300_000))
time.sleep(2.5)
"""
CODE = {f"lib/{number}.py": f"VALUE = {number}\n" * 40 for number in range(30)} | {"train.py": SCRIPT}
# Commands in their order, as each needs the ones before it, and the folders with their results
COMMANDS: Mapping[str, Sequence[str]] = {
    "submit": ("submit", "train.py", "-q"),
    "upload": ("datastore", "upload", "data", "data"),
    "fetch": ("datastore", "download", "data", "fetched"),
    "tiles": ("tiles", "slides", "--tile_size", "32", "--occupancy", "0", "--workers", "2"),
    "download": ("download", "--output_dir", "results"),
}
RESULTS = {"upload": ".himl/datastores", "fetch": "fetched", "tiles": "outputs", "download": "results"}
# Options of mkfs and of mount, and MiB. Where possible, names and sizes reach the disk each second, content later
SYSTEMS = {
    "ext4": (("mkfs.ext4", "-q", "-F"), "commit=1", 128),
    "btrfs": (("mkfs.btrfs", "-q", "-f"), "commit=1", 128),
    "xfs": (("mkfs.xfs", "-q", "-f"), "nouuid", 320),
}


def fill(project: Path, *, files: int = 150, model: int = 0) -> None:
    """Write the code, the data (*files*, and one of *model* bytes) and the slide of a new *project*."""
    write_files(
        project, CODE | {f"data/{number}.txt": f"{number} " * 900 for number in range(files)} | {"pyproject.toml": ""}
    )
    (project / "data" / "model.bin").write_bytes(hashlib.shake_128(b"data").digest(model))
    (project / "slides").mkdir()
    write_tiff(project / "slides" / "a.tiff", slide_picture(1, (320, 320)))


@dataclass(frozen=True)
class Cut:
    """A copy of the disk, when *done* commands had ended."""

    image: Path
    done: int


class Disk:
    """A new file system in an image in *folder*."""

    def __init__(self, folder: Path, system: str = "ext4") -> None:
        command, self._options, size = SYSTEMS[system]
        self.image, self.place = folder / "disk", folder / "mounted"
        with self.image.open("wb") as file:
            file.truncate(size << 20)
        subprocess.run([*command, str(self.image)], check=True)

    def mounted(self, image: Path | None = None) -> AbstractContextManager[bool]:
        """The disk, or a copy of it, at `place`. Returns whether that worked."""
        return mounted_image(image or self.image, self.place, self._options)

    def cuts(self, commands: Sequence[Callable[[], object]], pauses: Iterator[float], most: int) -> list[Cut]:
        """Call *commands* while the disk is mounted, and copy it meanwhile, with *pauses* in seconds, at most *most*
        times, and at the end of each."""
        taken, done, ended, guard = list[Cut](), 0, threading.Event(), threading.Lock()

        def cut() -> None:
            target = self.image.with_name(f"copy{len(taken)}")
            copy_image(self.image, target)
            taken.append(Cut(target, done))

        def watch() -> None:
            while not ended.wait(next(pauses)) and len(taken) < most:
                with guard:
                    cut()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for command in commands:
                command()
                with guard:
                    done += 1
                    cut()
        finally:
            ended.set()
            watcher.join()
        return taken


def results(project: Path) -> dict[str, bytes]:
    """The results of all commands but submit below *project*, without files that are being written."""
    found = {f"{top}/{name}": body for top in RESULTS.values() for name, body in contents(project / top).items()}
    return {name: body for name, body in found.items() if not any(part.startswith(".") for part in name.split("/")[1:])}


def runs(project: Path) -> Mapping[str, str]:
    """The status of each run below *project*. Raises sqlite3.DatabaseError if the database is damaged."""
    database = project / ".himl" / "workspace.db"
    if not database.exists() or not database.stat().st_size:
        return {}
    with closing(sqlite3.connect(database)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError(f"'{database}' is damaged")
        has_runs = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        return dict(connection.execute("SELECT id, status FROM runs")) if has_runs else {}


def resumable(project: Path) -> str:
    """The run below *project* that a power cut ended and that can be resumed, or an empty text."""
    for run_id, status in runs(project).items():
        record = project / ".himl" / "runs" / run_id / "job.json"
        if status != "Completed" and record.exists() and json.loads(record.read_bytes() or "{}").get("laid"):
            return run_id
    return ""


def problems(project: Path, done: Sequence[str], wanted: Mapping[str, bytes]) -> list[str]:
    """What is wrong after a power cut once the commands *done* had ended, of which *wanted* are all results."""
    found, recorded = results(project), runs(project)
    wrong = [
        f"'{name}' has {len(body):,} bytes, not its content" for name, body in found.items() if wanted.get(name) != body
    ]
    tops = tuple(f"{RESULTS[name]}/" for name in done if name in RESULTS)
    wrong += [f"'{name}' is missing" for name in sorted(wanted.keys() - found.keys()) if name.startswith(tops)]
    if "submit" in done and [*recorded.values()] != ["Completed"]:
        wrong.append(f"the completed runs are {dict(recorded)}")
    run_id = resumable(project)
    if run_id:
        staged = contents(project / ".himl" / "runs" / run_id / "code")
        wrong += [
            f"the staged '{name}' is incomplete" for name, text in CODE.items() if staged.get(name) != text.encode()
        ]
    models = [
        project / ".himl" / "runs" / run_id / "code" / "outputs" / "model.bin"
        for run_id, status in recorded.items()
        if status == "Completed"
    ]
    return wrong + [
        "a completed run has no model" for path in models if not path.exists() or path.read_bytes() != MODEL
    ]
