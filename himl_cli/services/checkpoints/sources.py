"""What a checkpoint SOURCE means: a file here, or files of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from himl_cli.core.runs import Run, RunSelection
from himl_cli.services.checkpoints.names import FOLDER, LAST, Kind, best_first, rank_of
from himl_cli.services.run_lookup import find_runs
from himl_cli.workspaces.base import BlobStore, Workspace

ADDRESS, DRIVE = re.compile(r"https?://", re.IGNORECASE), re.compile(r"[A-Za-z]:[\\/]")
SHAPES = "A file, RUN, RUN:FILE, RUN:FOLDER/ and experiment:RUN are understood."
SHOWN = 5


@dataclass(frozen=True)
class Checkpoint:
    """What was found: `names` are files of `run`, or, where that is None, paths here. `folder` is what is dropped of names; '' for a single file."""

    names: Sequence[str]
    run: Run | None = None
    folder: str = ""

    @property
    def by_place(self) -> dict[str, str]:
        """The names by where the files go: a single file is `outputs/checkpoints/last` with its own ending, files of a folder keep their names."""
        if self.folder:
            return {f"{FOLDER}/{name[len(self.folder) :]}": name for name in self.names}
        (name,) = self.names
        base = name.replace("\\", "/").rpartition("/")[2]
        _, dot, ending = base.rpartition(".")
        return {f"{FOLDER}/last{dot}{ending}" if dot else f"{FOLDER}/{LAST}": name}


@dataclass(frozen=True)
class _Meant:
    """A run as it was written, and the file or folder in it."""

    run: str
    path: str | None = None
    hint: str = field(default=SHAPES)


def find_checkpoint(text: str, workspace: Workspace, cwd: Path) -> Checkpoint:
    """What *text* means; a path that exists wins. Raises NotFound naming what there is, RunNotFound, BadUsage."""
    here = cwd / Path(text).expanduser()
    if here.is_file():
        return Checkpoint([str(here)])
    if here.is_dir():
        files = sorted(str(path) for path in here.rglob("*") if path.is_file())
        if not files:
            raise NotFound(f"The folder '{text}' is empty, and no checkpoint.")
        return Checkpoint([file.replace("\\", "/") for file in files], folder=f"{here}/".replace("\\", "/"))
    if DRIVE.match(text):
        raise NotFound(f"There is no file '{text}'.", hint=SHAPES)
    if ADDRESS.match(text) and "/runs/" not in text:
        raise BadUsage("A checkpoint at an https address has to be downloaded first.", hint=SHAPES)
    run, path = _meant(text, workspace, cwd)
    return _chosen(run, path, workspace.run_files(run.id))


def _meant(text: str, workspace: Workspace, cwd: Path) -> tuple[Run, str | None]:
    """The run, and the path in it where one is named: `experiment:RUN` comes before `RUN:PATH` where the second part is a run of that experiment."""
    if ADDRESS.match(text):
        return _run(text, workspace, cwd), None
    first, colon, rest = text.partition(":")
    if not colon:
        if "/" in text or "\\" in text:
            raise NotFound(f"There is no file '{text}'.", hint=SHAPES)
        return _run(text, workspace, cwd), None
    second, colon, path = rest.partition(":")
    if colon:
        return _run(f"{first}:{second}", workspace, cwd), path or None
    if rest and "/" not in rest and "\\" not in rest:
        try:
            run = workspace.run(rest)
        except RunNotFound:
            pass
        else:
            if run.experiment == first:
                return run, None
    return _run(first, workspace, cwd), rest or None


def _run(text: str, workspace: Workspace, cwd: Path) -> Run:
    (run,) = find_runs(workspace, RunSelection(runs=(text,)), cwd=cwd)
    return run


def _chosen(run: Run, path: str | None, files: BlobStore) -> Checkpoint:
    if path is None:
        names = [blob.name for page in files.list("outputs/") for blob in page]
        ranked = best_first(names)
        lasts = [name for name in ranked if (rank := rank_of(name)) is not None and rank.kind is Kind.last]
        if not ranked:
            raise _nothing(run, f"no {FOLDER}/{LAST}", files)
        return Checkpoint([(lasts or ranked)[0]], run)
    path = path.lstrip("/")
    for name in [path] if "/" in path else [f"{FOLDER}/{path}", path]:
        if not name.endswith("/") and files.stat(name) is not None:
            return Checkpoint([name], run)
    for folder in [f"{path.rstrip('/')}/"] if "/" in path.rstrip("/") else [f"{FOLDER}/{path.rstrip('/')}/", f"{path.rstrip('/')}/"]:
        inside = [blob.name for page in files.list(folder) for blob in page]
        if inside:
            return Checkpoint(inside, run, folder)
    raise _nothing(run, f"no '{path}'", files)


def _nothing(run: Run, what: str, files: BlobStore) -> NotFound:
    there = [blob.name for page in files.list("outputs/") for blob in page]
    likely = [name for name in there if rank_of(name) or re.search(r"\.(ckpt|pt|pth|bin|safetensors|h5|keras|pkl|joblib|npz|onnx)$", name)] or there
    more = f" and {len(likely) - SHOWN} more" if len(likely) > SHOWN else ""
    hint = f"There are: {', '.join(likely[:SHOWN])}{more}. Name one: {run.id}:PATH" if likely else "It kept nothing in outputs/."
    return NotFound(f"Run '{run.id}' has {what}.", hint=hint)
