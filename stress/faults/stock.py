"""What the cases of one world share: workspaces with runs and files in them, and what himl remembers of them after a first call."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from stress.faults.files import checkpoint_bytes, event_files, moved_files
from stress.world import World
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import add_many
from tests.support.running import write_files

FILES, CHECKPOINT = "files_1_aa", "trained_1_bb"
CURVES = ("curves_1_cc", "curves_2_dd", "curves_3_ee")
LISTED, ON_A_PAGE = 700, 50


class Stock:
    """Each thing is made in the double of *world* when it is first asked for."""

    def __init__(self, world: World) -> None:
        self._world = world

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """Those of the run FILES."""
        return moved_files()

    @cached_property
    def events(self) -> Mapping[str, bytes]:
        """Those of the runs CURVES, one each."""
        return event_files()

    @cached_property
    def checkpoint(self) -> bytes:
        """`last.ckpt` of the run CHECKPOINT."""
        return checkpoint_bytes()

    @cached_property
    def source(self) -> Path:
        """A folder with `files`, to be uploaded."""
        folder = self._world.place / "source"
        write_files(folder, dict(self.files))
        return folder

    @cached_property
    def staged(self) -> StagedWorkspace:
        """A workspace with the runs that have files. The checkpoint has no MD5 on record, as Azure's clients leave those above 64 MiB."""
        staged = self._world.stage.workspace()
        staged.put_artifacts(staged.add_run(FILES, "train"), self.files)
        staged.put_artifact(staged.add_run(CHECKPOINT, "train"), "outputs/checkpoints/last.ckpt", self.checkpoint, md5=False)
        for number, (run_id, (name, content)) in enumerate(zip(CURVES, self.events.items(), strict=True)):
            if number % 2 == 0:
                staged.put_artifact(staged.add_run(run_id, "curves"), f"logs/{name}", content)
            else:
                _let_grow(staged, run_id, f"logs/{name}", content)
        return staged

    @cached_property
    def listed(self) -> StagedWorkspace:
        """A workspace with LISTED runs, told ON_A_PAGE at a time."""
        listed = self._world.stage.workspace(page_size=ON_A_PAGE)
        add_many(listed, LISTED)
        return listed


def _let_grow(staged: StagedWorkspace, run_id: str, name: str, content: bytes) -> None:
    """A run that goes on, whose file is an append blob."""
    run = staged.add_run(run_id, "curves", status="Running")
    most = 1 << 20
    for start in range(0, len(content), most):
        staged.state.storage.append("azureml", f"{run.artifact_prefix}{name}", content[start : start + most])
