"""What the log of a failed job says it had not, and lies in the project all the same: which options bring it there."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from himl_cli.core.home import home_folder
from himl_cli.core.jobs import EntryKind, JobSpec

_MODULE = re.compile(
    rb"(?:^ModuleNotFoundError: No module named '|: No module named |\(ModuleNotFoundError: No module named ')([\w.]+)",
    re.MULTILINE,
)
_FILE = re.compile(rb"No such file or directory: '([^'\n]+)'")
_IN_CODE = re.compile(r".*/runs/[^/]+/code/")


def hint_for_missing(spec: JobSpec, log: bytes, cwd: Path) -> str:
    """How the next submit of the job, from *cwd*, gets the module or the file that the end of its *log* says was not
    there; empty where nobody knows."""
    if spec.in_place:
        return ""
    if modules := _MODULE.findall(log):
        return _module(spec, modules[-1].decode(), cwd)
    files = _FILE.findall(log)
    return _file(spec, files[-1].decode("utf-8", "replace").replace("\\\\", "/"), cwd) if files else ""


def _module(spec: JobSpec, name: str, cwd: Path) -> str:
    root, is_module = spec.snapshot.root, spec.entry.kind is EntryKind.module
    folder = next((folder for folder in (root, *root.parents) if _has_module(folder, name)), None)
    is_found = folder is not None and folder not in (home_folder(), Path(root.anchor))
    if is_found and folder != root:
        path = "" if is_module else " --env_var PYTHONPATH=."
        return f"'{name}' lies in '{folder}', which is not sent: add --snapshot_root {_shown(str(folder), cwd)}{path}"
    if is_found and "/" in spec.entry.target:
        return f"'{name}' lies in '{root}', where Python does not look for it: add --env_var PYTHONPATH=."
    if is_module and spec.entry.target.split(".")[0] == name.split(".")[0]:
        return (
            f"-m takes a module that Python finds in '{root}' or is installed; a script is named by its path: himl "
            "submit PATH.py"
        )
    return ""


def _has_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or next((folder / name).glob("*.py"), None) is not None


def _file(spec: JobSpec, path: str, cwd: Path) -> str:
    name = os.path.normpath(_IN_CODE.sub("", path)).replace("\\", "/")
    here = spec.snapshot.root / name
    if (
        os.path.isabs(name)
        or name.startswith("..")
        or not here.exists()
        or any(f"{each}/".startswith(f"{name}/") for each in spec.snapshot.files)
    ):
        return ""
    told = f"'{name}' lies in '{spec.snapshot.root}', and is not sent"
    if not spec.cluster and spec.sweep is None:
        return f"{told}: --in_place runs the job where it lies"
    top = name.split("/", 1)[0]
    shown = _shown(str(spec.snapshot.root / top), cwd)
    as_data = f"--input {shlex.quote(top)}" if spec.cluster else f"--input {shlex.quote(top)},local={shown}"
    first = f"himl datastore upload {shown} {shlex.quote(top)}, then " if spec.cluster else ""
    return (
        f"{told}: make it data of the job, {first}{as_data}, and read it in the folder that "
        f"AZURE_ML_INPUT_INPUT_{len(spec.inputs)} names"
    )


def _shown(path: str, cwd: Path) -> str:
    relative = os.path.relpath(path, cwd) if os.path.splitdrive(path)[0] == os.path.splitdrive(cwd)[0] else path
    return shlex.quote(min(relative, path, key=len))
