"""The run that ranks fetch files of: what is in it, and what of it went over the line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from stress.faults.found import final_files, left_parts
from stress.faults.judge import differences
from stress.faults.places import FETCH
from stress.world import World
from tests.servers.azureml.seeding import StagedWorkspace

CONTAINER = "azureml"
LARGE = 9 << 20
SIZES = (0, 1, 300, 16 << 10, 100_000, 300_000, 700_000)
CHECKPOINT = "outputs/checkpoints/last.ckpt"
COMMANDS: Mapping[str, tuple[str, ...]] = {"download": ("download",), "checkpoint": ("checkpoint", "fetch")}


class Source:
    """A run of its own for one case, and the folder into which *command* fetches its files."""

    def __init__(self, world: World, command: str, dice: random.Random) -> None:
        self._world, self._command = world, command
        self.staged: StagedWorkspace = world.lasting("workspace of ranks", lambda world: world.stage.workspace())
        self._run = self.staged.add_run(f"ranks_{dice.getrandbits(48):012x}", "train")
        self.files: dict[str, bytes] = {}
        self.cwd = world.folder / "project"
        self.cwd.mkdir()
        self.staged.write_config(world.folder)
        self.change(dice)

    @property
    def arguments(self) -> Sequence[str]:
        return (*COMMANDS[self._command], self._run.run_id)

    @property
    def folder(self) -> Path:
        return self.cwd / ("outputs" if self._command == "download" else "checkpoints") / self._run.run_id

    def change(self, dice: random.Random) -> None:
        """Give all files other bytes; a download gets one file more each time."""
        if self._command == "checkpoint":
            self.files = {CHECKPOINT.rpartition("/")[2]: dice.randbytes(LARGE)}
            self.staged.put_artifact(self._run, CHECKPOINT, self.files["last.ckpt"])
        else:
            more = len(self.files) - len(SIZES) if self.files else 0
            sizes = {f"part_{number}.bin": size for number, size in enumerate((*SIZES, *[50_000] * more))} | {"large.bin": LARGE}
            self.files = {name: dice.randbytes(size) for name, size in sizes.items()}
            self.staged.put_artifacts(self._run, self.files)

    def problems(self, *, is_done: bool) -> list[str]:
        """What is wrong with the files that are there."""
        return differences(self.files, final_files(self.folder), is_done=is_done) + (left_parts(self.folder) if is_done else [])

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(content) for name, content in self.files.items() if content}

    def moved(self) -> dict[str, int]:
        """Bytes that were answered of each file since the log was cleared; of those that have any."""
        moved: dict[str, int] = {}
        for seen in self._world.stage.log.find(FETCH.match):
            if self._run.artifact_prefix in seen.path and seen.received:
                name = seen.path.rpartition("/")[2]
                moved[name] = moved.get(name, 0) + seen.received
        return moved

    def is_moving(self) -> bool:
        """Whether any file's bytes were asked for."""
        return bool(self._world.stage.log.find(FETCH.match))

    def there(self) -> float:
        """When the last answer with bytes was through, in seconds since the epoch."""
        return max((seen.started + seen.seconds for seen in self._world.stage.log.find(FETCH.match)), default=0.0)

    def begun(self) -> set[str]:
        """What the ranks have left of their calls: `0-1`, `outcome-1`, …"""
        return {path.name for path in self._world.home.rglob("ranks/*/*/*")}

    def close(self) -> None:
        """Take the blobs away."""
        container = self.staged.state.storage.client.get_container_client(CONTAINER)
        for blob in list(self.staged.state.storage.list(CONTAINER, self._run.artifact_prefix)):
            container.delete_blob(blob.name)
        shutil.rmtree(self.cwd)
