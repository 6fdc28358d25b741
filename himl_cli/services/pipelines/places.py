"""Where the files that a pipeline's file names lie: relative to its own folder, else to the current one, as DeepSeismic
ran it."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from himl_cli.services.pipelines.schema import PipelineFile, Step
from himl_cli.services.written_paths import as_found, with_slashes


@dataclass(frozen=True)
class StepFiles:
    """The source folder of a step, its script relative to that (`/` separators), and its requirements file, if it has
    one."""

    source: Path
    script: str
    requirements: Path | None


def step_files(file: PipelineFile, step: Step, cwd: Path) -> StepFiles:
    """The files of *step*. Raises BadUsage, naming the step and the key, for one that is not there."""
    folders = list(dict.fromkeys((file.path.parent.resolve(), cwd.resolve())))
    source = _source(file, step, folders)
    return StepFiles(source, _script(file, step, source), _requirements(file, step, folders))


def _source(file: PipelineFile, step: Step, folders: list[Path]) -> Path:
    for folder in folders:
        found = folder / as_found(folder, step.source_directory)
        if os.path.isdir(found):  # also for a name that no file system takes
            return found.resolve()
        if os.path.exists(found):
            raise file.wrong(
                step.key,
                "source_directory",
                f"'{step.source_directory}' is no folder.",
                hint="Name the folder that holds the script.",
            )
    names = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
    raise file.wrong(
        step.key,
        "source_directory",
        f"'{step.source_directory}' does not exist.",
        hint=_near(step.source_directory, names) or _looked(folders),
    )


def _script(file: PipelineFile, step: Step, source: Path) -> str:
    script = Path(os.path.normpath(source / as_found(source, step.script)))
    if not script.is_relative_to(source):
        raise file.wrong(
            step.key,
            "script",
            f"'{step.script}' lies outside source_directory '{step.source_directory}'.",
            hint="Only that folder is sent.",
        )
    relative = script.relative_to(source).as_posix()
    if script.suffix != ".py":
        raise file.wrong(step.key, "script", f"'{step.script}' is no .py script.")
    if not os.path.isfile(script):
        names = (
            [path.relative_to(source).as_posix() for path in script.parent.glob("*.py")]
            if os.path.isdir(script.parent)
            else []
        )
        raise file.wrong(
            step.key,
            "script",
            f"'{step.script}' is not in '{source}'.",
            hint=_near(relative, names) or "The path is relative to the step's source_directory.",
        )
    return relative


def _requirements(file: PipelineFile, step: Step, folders: list[Path]) -> Path | None:
    if not step.requirements:
        return None
    for folder in folders:
        found = folder / as_found(folder, step.requirements)
        if os.path.isfile(found):
            return found
    near = [folder / with_slashes(step.requirements) for folder in folders]
    names = [
        Path(os.path.relpath(path, folder)).as_posix()
        for folder, beside in zip(folders, near, strict=True)
        for path in beside.parent.glob("*.txt")
    ]
    raise file.wrong(
        step.key,
        "requirements",
        f"'{step.requirements}' is no file.",
        hint=_near(step.requirements, names) or _looked(folders),
    )


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(posixpath.normpath(with_slashes(name)), names, n=1)
    return f"Did you mean '{near[0]}'?" if near else ""


def _looked(folders: list[Path]) -> str:
    return f"The path is relative to {' or '.join(repr(str(folder)) for folder in folders)}."
