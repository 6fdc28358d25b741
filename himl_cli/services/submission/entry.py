"""What is started, the folder that is sent with it, and the Python that runs it here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePath

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import home_folder
from himl_cli.core.jobs import Entry, EntryKind
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.snapshot import find_snapshot_root

OWN_FOLDER = "Put the script into a folder of its own, or name the one to send: --snapshot_root DIR"
KINDS = {".py": EntryKind.script, ".sh": EntryKind.shell}


def find_root(request: SubmitRequest) -> tuple[Path, Path]:
    """The script's path (or the current folder, for a module or a command) and the snapshot root. Raises BadUsage."""
    start = request.cwd / request.target if request.target else request.cwd
    if request.target:
        _check_script(start, request.target)
        start = start.parent.resolve() / start.name
    if request.snapshot_root is None:
        return start, find_snapshot_root(start.parent if request.target else start)
    root = (request.cwd / request.snapshot_root).resolve()
    if not root.is_dir():
        raise BadUsage(f"--snapshot_root '{request.snapshot_root}' is no folder.")
    return start, root


def find_entry(request: SubmitRequest, script: Path, root: Path) -> Entry:
    """What is started, relative to *root*. Raises BadUsage for a script outside it and for what is no module's name."""
    if request.module:
        if not all(part.isidentifier() for part in request.module.split(".")):
            raise BadUsage(
                f"-m '{request.module}' is no module name.", hint="Write it with dots, without .py: -m package.module"
            )
        _check_module(request.module, root)
        return Entry(EntryKind.module, request.module)
    if request.command:
        return Entry(EntryKind.command, request.command)
    if not script.is_relative_to(root):
        raise BadUsage(
            f"'{request.target}' lies outside the snapshot root '{root}'.",
            hint="Give a --snapshot_root that holds the script.",
        )
    return Entry(KINDS[script.suffix], script.relative_to(root).as_posix())


def check_root(root: Path, script: Path | None) -> None:
    """Raises BadUsage for a folder that nobody named and nobody means to send: the home folder, a whole disk, one above
    the repository of *script*."""
    root = root.resolve()
    if root.parent == root:
        raise BadUsage(f"The snapshot would be all of '{root}'.", hint=OWN_FOLDER)
    home = home_folder()
    if home is not None and root == home.resolve():
        raise BadUsage(f"The snapshot would be all of your home folder, '{root}'.", hint=OWN_FOLDER)
    above = script.resolve().parents if script is not None else ()
    repository = next((folder for folder in above if (folder / ".git").exists()), root)
    if root in repository.parents:
        raise BadUsage(
            f"The snapshot would be '{root}', a folder above the repository of '{script}'.",
            hint=f"Say which is meant: --snapshot_root {shlex.quote(str(repository))}, or all of it: --snapshot_root "
            f"{shlex.quote(str(root))}",
        )


def named_by(entry: Entry) -> str:
    """What the experiment is named after: the script or module; of a command the first of these in it, else its
    program."""
    if entry.kind is not EntryKind.command:
        return entry.target
    words = [word.strip("'\"") for word in entry.target.split()]
    named = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word.endswith(tuple(KINDS)) or before in ("-m", "--module")
    ]
    return named[0] if named else f"{PurePath(words[0]).name}.sh" if words else ""


def entry_file(entry: Entry, root: Path) -> Path | None:
    """The Python file that is started; None for a shell script, a command, and a module that does not lie below
    *root*."""
    if entry.kind is EntryKind.script:
        return root / entry.target
    if entry.kind in (EntryKind.shell, EntryKind.command):
        return None
    module = root.joinpath(*entry.target.split("."))
    candidates = (module.with_name(f"{module.name}.py"), module / "__main__.py")
    return next((path for path in candidates if path.is_file()), None)


def _check_module(name: str, root: Path) -> None:
    """Raises BadUsage for a module that is missing from a package of the project; what is not the project's may be
    installed."""
    top, *below = name.split(".")
    package, place = root / top / "__init__.py", root.joinpath(top, *below)
    if not package.is_file() or (place / "__main__.py").is_file() or any(place.parent.glob(f"{place.name}.*")):
        return
    names = sorted(
        path.stem for path in (place if place.is_dir() else place.parent).glob("*.py") if not path.stem.startswith("__")
    )
    near = get_close_matches(place.name, names, n=1) or names[:1]
    prefix = name if place.is_dir() else name.rpartition(".")[0]
    hint = f"Did you mean -m {prefix}.{near[0]}?" if near else f"It would be '{place}.py'."
    what = f"'{name}' is a package without __main__.py" if place.is_dir() else f"There is no module '{name}'"
    raise BadUsage(f"{what} in '{root}'.", hint=hint)


def _check_script(path: Path, shown: str) -> None:
    if path.is_dir():
        inside = sorted(each.name for kind in KINDS for each in path.glob(f"*{kind}"))
        name = "train.py" if "train.py" in inside else next(iter(inside), "")
        raise BadUsage(
            f"'{shown}' is a folder, not a script.",
            hint=f"Name the script in it: himl submit {shlex.quote(Path(shown, name).as_posix())}"
            if name
            else "There is no .py or .sh script in it.",
        )
    if not path.exists():
        scripts = [name.name for kind in KINDS for name in path.parent.glob(f"*{kind}")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, scripts, n=1)
        raise BadUsage(
            f"There is no script '{shown}'.",
            hint=f"Did you mean '{near[0]}'?" if near else "Check the path; it is relative to the current folder.",
        )
    if path.suffix not in KINDS:
        if path.suffix == ".ipynb":
            raise BadUsage(
                f"'{shown}' is a notebook, not a script.",
                hint=f"Make one of it: jupyter nbconvert --to script {shlex.quote(shown)}",
            )
        raise BadUsage(
            f"'{shown}' is neither a .py nor a .sh script.",
            hint="Name such a script, or a module: himl submit -m package.module",
        )


ISOLATED_MARKS = (
    "pipx_metadata.json",
    "uv-receipt.toml",
)  # what pipx and `uv tool` leave in the environments they make


def find_python(asked: str | None, env: Mapping[str, str], own_prefix: Path) -> str:
    """The interpreter: *asked*, else the active environment's, else that of *own_prefix* unless it only holds a tool,
    else `python3` on PATH.

    Raises BadUsage when what was asked for, or any of them, cannot be run.
    """
    if asked:
        return _check(asked, shutil.which(os.path.expanduser(asked), path=env.get("PATH")))
    for prefix in (env.get("VIRTUAL_ENV"), env.get("CONDA_PREFIX")):
        if prefix and (found := _python_in(Path(prefix))):
            return found
    if not any((own_prefix / mark).exists() for mark in ISOLATED_MARKS) and (found := _python_in(own_prefix)):
        return found
    found_on_path = shutil.which("python3", path=env.get("PATH")) or shutil.which("python", path=env.get("PATH"))
    return _check("python3", found_on_path)


def _check(asked: str, found: str | None) -> str:
    if found is None:
        raise BadUsage(f"No Python interpreter '{asked}'.", hint="Name one that exists: --python /path/to/python")
    return os.path.abspath(found)  # not resolved: a virtual environment's python is a link


def _python_in(prefix: Path) -> str | None:
    names = ("python.exe", "Scripts/python.exe") if sys.platform == "win32" else ("bin/python", "bin/python3")
    return next((str(prefix / name) for name in names if os.access(prefix / name, os.X_OK)), None)
