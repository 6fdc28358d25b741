"""Remedies for modules and files that a job did not find: what this machine has under that name, why the job lacks it,
and the option with which the job finds it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Container
from pathlib import Path

from himl_cli.core.files import home_folder
from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.core.patterns import lazy_pattern

MISSING_MODULE = lazy_pattern(
    rb"(?:(?:^|\()ModuleNotFoundError: No module named '|: No module named )([\w.-]+)",
    re.MULTILINE,
)
MISSING_FILE = lazy_pattern(rb"(?:No such file or directory: |unable to open file: name = )'([^'\n]+)'")
MISSING_PROGRAM = lazy_pattern(rb"^(?:.*: )?([\w.+-]+): (?:command )?not found$", re.MULTILINE)
MADE_BEFORE = lazy_pattern(rb"^FileExistsError: .*'(?:\./|[^'\n]*/code/)?(outputs|logs)/?'\s*\Z", re.MULTILINE)
_IN_PLACE = "add --in_place to run the job in its folder"


FRAME = lazy_pattern(r'File "([^"\n]+)", line (\d+)')
# The folder of the code of a local run, and that of a job on Azure ML
COPY = lazy_pattern(r".*(?:/runs/[^/]+/code|/exe/wd)/(.+)")


def failing_line(log: bytes, cwd: Path, changed: Container[str] = ()) -> str:
    """The last line of the user's code in the traceback at the end of *log*: `train.py, line 12 in your project`. Empty
    without one. The files *changed* have other lines in the project now."""
    for path, number in reversed(FRAME.findall(log.decode("utf-8", "replace"))):
        path = path.replace("\\", "/")
        copied, folder = COPY.fullmatch(path), f"{cwd.as_posix()}/"
        if "/site-packages/" in path or not (copied or path.startswith(folder)):
            continue
        name = copied[1] if copied else path.removeprefix(folder)
        return f"{name}, line {number} {'of the submitted code' if name in changed else 'in your project'}"
    return ""


def failure_hint(log: bytes, python: str, spec: JobSpec | None, cwd: Path) -> str:
    """Remedy for a module or file that a run did not find, from the end of its *log*. Empty for other failures.

    *spec* is the job that was submitted from *cwd*, if it is known, *python* the interpreter of a local run.
    """
    hint = ""
    if made := MADE_BEFORE.search(log):
        return f"himl creates '{made[1].decode()}' before the job starts: use os.makedirs(..., exist_ok=True)"
    if programs := MISSING_PROGRAM.findall(log):
        where = f"for '{python}'" if python else "in the job's environment"
        return f"'{programs[-1].decode()}' is no program on PATH: install it {where}, or write its path"
    if spec is not None and not spec.in_place:
        modules, files = MISSING_MODULE.findall(log), MISSING_FILE.findall(log)
        if modules:
            hint = _module_hint(spec, modules[-1].decode(), cwd, python)
        elif files:
            hint = _file_hint(spec, files[-1].decode("utf-8", "replace").replace("\\\\", "/"), cwd)
    if not hint and python and re.search(rb"^ModuleNotFoundError: ", log, re.MULTILINE):
        hint = f"it ran with '{python}', use --python for another one"
    return hint


def _module_hint(spec: JobSpec, name: str, cwd: Path, python: str) -> str:
    root, is_module, path = spec.snapshot.root, spec.entry.kind is EntryKind.module, name.replace(".", "/")
    top, _, below = name.partition(".")

    def has(folder: Path, part: str) -> bool:
        return (folder / f"{part}.py").is_file() or any((folder / part).glob("*.py"))

    # A module begins with the folder of the snapshot on its path, a script with its own folder
    entry = root / (spec.entry.target.replace(".", "/") if is_module else spec.entry.target)
    inside = [each for each in (*[*entry.parents][not is_module :], root / "src") if root in each.parents]
    folder = next((each for each in (root, *inside, *root.parents) if has(each, path)), None)
    if folder in (home_folder(), Path(root.anchor)):
        folder = None
    # A folder may have the name of a package that is not installed
    install = f"install it for '{python}'" if python else "add it to the job's environment"
    package = "" if below else f"; if '{name}' is a package, {install}"
    if folder is not None and root not in (folder, *folder.parents):
        variable = "" if is_module else " --env_var PYTHONPATH=."
        option = f"--snapshot_root {_shown(str(folder), cwd)}{variable}"
        return f"'{name}' is in '{folder}', outside the snapshot: add {option}{package}"
    part = Path() if folder is None else folder.relative_to(root)
    if folder is not None and not any(_is_sent(spec, (part / each).as_posix()) for each in (path, f"{path}.py")):
        remedy = _IN_PLACE if _can_be_in_place(spec) else "check its ignore file and --ignored_folders"
        return f"'{name}' is in '{folder}', but not in the snapshot: {remedy}{package}"
    if folder is not None and (folder != root or "/" in spec.entry.target):
        variable = f"--env_var PYTHONPATH={shlex.quote(part.as_posix())}"
        return f"'{name}' is in '{folder}', which is not on Python's path: add {variable}{package}"
    if is_module and spec.entry.target.split(".")[0] == top:
        return f"-m takes a module in '{root}' or an installed one. For a script, give its path: himl submit PATH.py"
    hiding = next((each for each in ((root / spec.entry.target).parent, root) if has(each, top)), None)
    if below and hiding is not None:
        return f"'{top}' in '{hiding}' has no '{below}': if you mean the installed package '{top}', rename that one"
    return ""


def _can_be_in_place(spec: JobSpec) -> bool:
    return not spec.cluster and spec.engine is None and spec.sweep is None


def _is_sent(spec: JobSpec, path: str) -> bool:
    """Whether *path* is a file of the snapshot, or a folder with one."""
    return any(f"{each}/".startswith(f"{path}/") for each in spec.snapshot.files)


def _file_hint(spec: JobSpec, path: str, cwd: Path) -> str:
    """The option with which the job finds a file that exists on this machine. *path* is from the script's error."""
    root, name = spec.snapshot.root, os.path.normpath(path).replace("\\", "/")
    if in_run := re.fullmatch(r".*?/runs/[^/]+/(.+)", name):  # the job's folder is `code` in the folder of its run
        name = os.path.relpath(in_run[1], "code").replace("\\", "/")
    folder = next((each for each in (root, cwd, *root.parents[:-1]) if (each / name).exists()), None)
    if os.path.isabs(name) or folder is None or (folder == root and _is_sent(spec, name)):
        return ""
    if name.startswith("../"):
        place = f"'{name}' is above the snapshot of '{root}'"
        above = os.path.normpath(root / name[: name.rindex("../") + 2])
        if os.path.isabs(path):  # relative to the script
            return f"{place}: add --snapshot_root {_shown(above, cwd)}"
        if _can_be_in_place(spec):
            return f"{place}: {_IN_PLACE}"
        return f"{place}: {_as_input(spec, os.path.dirname(name), folder, cwd)}"
    if folder != root:
        place = f"'{name}' is in '{folder}', but the job runs in the folder of '{root}'"
        return f"{place}: {_as_input(spec, name, folder, cwd)}"
    place, way = f"'{name}' is in '{root}', but not in the snapshot", _as_input(spec, name, folder, cwd)
    return f"{place}: {f'{_IN_PLACE}, or ' if _can_be_in_place(spec) else ''}{way}"


def _as_input(spec: JobSpec, name: str, folder: Path, cwd: Path) -> str:
    """How to make *name* in *folder* an input: a link to the first folder of its path that the snapshot lacks, or a
    folder that the script reads from a variable, for `outputs/` and for data above the job's folder."""
    parts = name.split("/")
    tops = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    top = name if parts[0] == ".." else next(each for each in tops if not _is_sent(spec, each))
    found = os.path.normpath(folder / top)
    data, shown = shlex.quote(os.path.basename(found)), _shown(found, cwd)
    given = f"--input {data},local={shown}"
    if spec.cluster:
        given = f"himl datastore upload {shown} {data}, then --input {data}"
    if top.split("/")[0] not in ("outputs", "logs", "..") and not (spec.cluster and (folder / top).is_file()):
        return f"add {given},target={shlex.quote(top)}" if not spec.cluster else f"{given},target={shlex.quote(top)}"
    variable = f"AZURE_ML_INPUT_INPUT_{len(spec.inputs)}"
    return f"make it an input of the job, {given}, and read it from the folder in {variable}"


def _shown(path: str, cwd: Path) -> str:
    relative = os.path.relpath(path, cwd) if os.path.splitdrive(path)[0] == os.path.splitdrive(cwd)[0] else path
    return shlex.quote(min(relative, path, key=len))
