"""Compare two runs, or a run and the working tree: their arguments, values, tags and machines, and their code. Save
the code of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from functools import partial
from pathlib import Path
from typing import NamedTuple

from himl_cli.core.errors import BadUsage, DiskFailed, NotAllowed, NotFound, RunNotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import is_inside, make_folder
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.jobs import Snapshot
from himl_cli.core.logged import SYSTEM, FileChange, RunDiff, Value, given_of
from himl_cli.core.runs import REPEATS, SUBMITTED_TAGS, Run, RunQuery, own_tags
from himl_cli.core.sweeps import best_trial_of
from himl_cli.core.text import utc_text
from himl_cli.services.runs.find import with_best_trials
from himl_cli.services.submission.snapshot import find_snapshot_root, take_snapshot
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, LocalStore, Workspace

WORKING_TREE = "."
LARGEST_TEXT = 1 << 20  # bytes of a file whose lines himl compares
Values = Mapping[str, Value]


class _File(NamedTuple):
    """A file of the code, its size in bytes, its MD5 if that is known, and its content."""

    size: int
    md5: Callable[[], bytes | None]
    read: Callable[[], bytes]


def run_before(workspace: Workspace, run: Run) -> Run:
    """The run before *run* in its experiment, among the children of the same parent for a child. Raises NotFound."""
    for other in workspace.runs(RunQuery(run.experiment, parent=run.parent)):
        if other.id != run.id and other.created <= run.created:
            return other
    raise NotFound(
        f"Run '{run.id}' is the first one of experiment '{run.experiment}'.",
        hint=f"Name another run, or compare its code with the working tree: himl runs diff {run.id} .",
    )


def diff_runs(
    workspace: Workspace, first: Run, second: Run | None, cwd: Path, notify: Notify, *, has_text: bool = False
) -> RunDiff:
    """The differences from *first* to *second*, or to the working tree of the project of *first* (None), which only
    has code. With *has_text*, changed texts have unified diffs. Tells *notify* if there is no code to compare. Raises
    the errors of the workspace, BadUsage."""
    before = _code(workspace, first, notify)
    after = _code(workspace, second, notify) if second else _working_tree(workspace, first, cwd)
    code = None if before is None or after is None else _changes(before, after, has_text)
    if second is None:
        return RunDiff(first.id, WORKING_TREE, code=code)
    ask = partial(workspace.results, wanted=lambda name: not name.startswith(SYSTEM), whole=False)
    results = with_best_trials([first, second], ask)
    runs = [(run, _parameters(workspace, run)) for run in (first, second)]
    environments = [
        workspace.environment(run.id) or RunEnvironment(problem="they are not on record") for run in (first, second)
    ]
    packages = [each.packages for each in environments]
    if problem := next((each.problem for each in environments if each.packages is None), ""):
        notify(Notice(f"himl does not compare packages: {problem}."))
    return RunDiff(
        first.id,
        second.id,
        _differing(*(_facts(run) for run, _ in runs)),
        _differing(*(given_of(run) for run, _ in runs)),
        _differing(*(parameters for _, parameters in runs)),
        _differing(*(results[run.id].last for run, _ in runs)),
        _differing(*(own_tags(run) for run, _ in runs)),
        _differing(*map(_environment_facts, environments)),
        {} if None in packages else _differing(*(each or {} for each in packages)),
        code,
    )


def _parameters(workspace: Workspace, run: Run) -> Mapping[str, str]:
    """The logged parameters of *run*, and those of the best trial of a sweep."""
    found = workspace.parameters(run.id)
    if trial := best_trial_of(run.tags):
        with suppress(RunNotFound):  # it was deleted
            found = {**workspace.parameters(trial), **found}
    return found


def _environment_facts(found: RunEnvironment) -> Values:
    facts = {"python": found.python, "version": found.version, "environment": found.name, "image": found.image}
    facts |= {**found.machine, "conda": found.conda}
    return {name: value for name, value in facts.items() if value}


def _differing(first: Values, second: Values) -> dict[str, Sequence[Value]]:
    names = dict.fromkeys([*first, *second])
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if repr(pair[0]) != repr(pair[1])}  # NaN equals itself


def _facts(run: Run) -> Values:
    """The recorded facts of a run."""
    facts: dict[str, Value] = {
        "experiment": run.experiment,
        "display_name": run.display_name,
        "status": run.status.value,
        "reason": run.reason,
        "started": utc_text(run.started) if run.started else "",
        "duration": run.duration,
        "command": run.command,
        "workspace": run.workspace,
        "target": run.target,
        "repeats": run.tags.get(REPEATS, ""),
        "best_trial": best_trial_of(run.tags),
    }
    submitted = {name: value for name, value in run.tags.items() if name.startswith(SUBMITTED_TAGS[0])}
    return {name: value for name, value in {**facts, **submitted}.items() if value not in ("", None)}


def code_of(workspace: Workspace, run: Run) -> BlobStore:
    """The code of *run*. Raises NotFound if there is no copy of it."""
    found = workspace.code_files(run.id)
    if found is None:
        hint = "himl copies the code of jobs that it submits, except with --in_place."
        raise NotFound(f"Run '{run.id}' has no copy of its code.", hint=hint)
    return found[0]


def save_code(store: BlobStore, folder: Path) -> int:
    """Write the files of *store* into *folder*, which must be new or empty, and return their number. Raises BadUsage
    for another folder and a file outside of it, DiskFailed."""
    saved, root = 0, os.path.realpath(folder)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise BadUsage(f"The folder '{folder}' is not empty.", hint="Name a new folder: --output_dir DIR")
        for blob in (blob for page in store.list() for blob in page):
            target = folder / blob.name
            if not is_inside(target, root):
                raise BadUsage(f"The code has a file outside of its folder: '{blob.name}'.")
            make_folder(target.parent)
            with target.open("wb") as stream:
                for piece in store.read(blob.name):
                    stream.write(piece)
            if isinstance(store, LocalStore) and (path := store.path_of(blob.name)) is not None:
                target.chmod(path.stat().st_mode & 0o777 | 0o200)  # stored files are read-only
            saved += 1
    except OSError as err:
        raise DiskFailed(f"Cannot save the code in '{folder}': {err.strerror}.", hint="Choose another folder.") from err
    return saved


def _code(workspace: Workspace, run: Run, notify: Notify) -> dict[str, _File] | None:
    """The files of the code of *run*, by name. None if there is no copy of it, or if himl cannot read it."""
    try:
        found = workspace.code_files(run.id)
        if found is None:
            notify(Notice(f"Run '{run.id}' has no copy of its code, so himl does not compare code."))
            return None
        store, names = found
        blobs = [blob for page in store.list() for blob in page if names is None or blob.name in names]
    except (NotAllowed, NotFound) as err:
        notify(Notice(f"himl does not compare code, since it cannot read that of run '{run.id}': {err}"))
        return None

    def read(name: str) -> bytes:
        return b"".join(store.read(name))

    return {blob.name: _File(blob.size, partial(store.md5, blob), partial(read, blob.name)) for blob in blobs}


def _working_tree(workspace: Workspace, run: Run, cwd: Path) -> dict[str, _File]:
    """The files that a submission from the project of *run* would contain now."""
    home = workspace.home_of(run.id)
    old = [each for each, _ in home.code_of(run.id)] if isinstance(home, FolderWorkspace) else []
    project = old[0] if old and Path(old[0].source).is_dir() else Snapshot(find_snapshot_root(cwd), [], 0)
    root = Path(project.source)
    snapshot = take_snapshot(root, project.ignored_folders, project.include_secret).snapshot
    paths = {name: root / name for name in snapshot.files}
    return {name: _File(path.stat().st_size, lambda: None, path.read_bytes) for name, path in paths.items()}


def _changes(before: Mapping[str, _File], after: Mapping[str, _File], has_text: bool) -> list[FileChange]:
    changes = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None or new is None or not _is_same(old, new):
            change = "added" if old is None else "removed" if new is None else "changed"
            changes.append(FileChange(name, change, _diff(name, old, new) if has_text else ""))
    return changes


def _is_same(old: _File, new: _File) -> bool:
    if old.size != new.size:
        return False
    known = [each.md5() for each in (old, new)]
    return known[0] == known[1] if None not in known else old.read() == new.read()


def _diff(name: str, old: _File | None, new: _File | None) -> str:
    """The unified diff of a text. Empty for another file, and for a large one."""
    texts = []
    for each in (old, new):
        content = b"" if each is None else each.read() if each.size <= LARGEST_TEXT else b"\0"
        if b"\0" in content:
            return ""
        texts.append(content.decode("utf-8", "replace").splitlines())
    names = f"a/{name}" if old else "/dev/null", f"b/{name}" if new else "/dev/null"
    return "\n".join(unified_diff(texts[0], texts[1], *names, lineterm=""))
