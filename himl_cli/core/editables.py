"""Code of a project that the job's Python would import from the project in place of the snapshot: packages that are
installed in editable mode, and folders of PYTHONPATH.

Reads the files that installers leave in `site-packages`, and starts no Python. A `.pth` file names a folder (setuptools
for `src/`, hatch, PDM, Poetry), or imports a module with the paths of packages (setuptools for other layouts, and the
package `editables`). In a job, the folders of the snapshot precede `site-packages` on Python's path, and so does a
module of the same name with the paths of the snapshot.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from himl_cli.core.files import walk_folders
from himl_cli.core.installed import package_folders
from himl_cli.core.jobs import Editables, EntryKind, JobSpec
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.processes import JOB_FOLDER

MODULES = "imports"  # the folder of such modules beside that of a job
_HOOK = lazy_pattern(r"\b(__editable___\w+_finder|_editable_impl_\w+)\b")
_CODE = (".py", ".so", ".pyd", ".dll", ".dylib")
_NO_MODULES = (".pth", ".dist-info", ".egg-info", ".egg-link")
_SKIPPED = (".pyc", ".log", "~")
# Names that a project may share with installed packages, since nothing imports them
_HARMLESS = {"test", "tests", "docs", "examples", "scripts", "setup", "conftest"}
LACKS, REMEDY = "the snapshot lacks", ". To change that, stop ignoring it"


def with_editables(spec: JobSpec, env: Mapping[str, str]) -> tuple[JobSpec, list[str]]:
    """The job with its editables, if its Python or PYTHONPATH in *env* has any in the root of its snapshot, and remarks
    on code that the job imports from the project, because its snapshot lacks a part."""
    if spec.in_place or not os.path.isfile(spec.python):  # it may be that of a container
        return spec, []
    search = _Search(spec)
    for folder in filter(os.path.isabs, spec.env.get("PYTHONPATH", env.get("PYTHONPATH", "")).split(os.pathsep)):
        search.add_folder(folder)
    for packages in package_folders(spec.python):
        with suppress(OSError):  # it cannot be read
            search.add_packages(packages)
    folders = [*dict.fromkeys(search.folders)]
    if not (folders or search.hooks):
        return spec, search.remarks
    return replace(spec, editables=Editables(str(spec.snapshot.root), folders, search.hooks)), search.remarks


def stage_modules(editables: Editables, code: Path) -> None:
    """Write the modules of *editables* beside the job's folder *code*, with its paths. Raises OSError."""
    for hook in editables.hooks:
        with suppress(FileNotFoundError):  # the package was uninstalled
            text, modules = Path(hook).read_text(encoding="utf-8"), code.with_name(MODULES)
            root, own = (_quoted(os.path.join(each, "")) for each in (editables.root, code))
            modules.mkdir(exist_ok=True)
            (modules / Path(hook).name).write_text(text.replace(root, own), encoding="utf-8")


def with_snapshot_first(env: Mapping[str, str], editables: Editables | None) -> dict[str, str]:
    """The variables of a job, with its snapshot first on Python's path."""
    if editables is None:
        return dict(env)
    code = Path(env[JOB_FOLDER])
    first = [str(code.with_name(MODULES))] if editables.hooks else []
    first += [str(code / folder) for folder in editables.folders]
    return {**env, "PYTHONPATH": os.pathsep.join([*first, *filter(None, [env.get("PYTHONPATH")])])}


class _Search:
    """Collects `folders` of the snapshot, `hooks` (see `Editables`) and `remarks`."""

    def __init__(self, spec: JobSpec) -> None:
        self._real_root = os.path.realpath(spec.snapshot.root)
        self._root, self._files = str(spec.snapshot.root), {*spec.snapshot.files}
        self._parents = {name.rpartition("/")[0] for name in self._files}
        self._own = posixpath.dirname(spec.entry.target) if spec.entry.kind is EntryKind.script else ""
        self._has_own = spec.entry.kind in (EntryKind.script, EntryKind.module)
        self.folders: list[str] = []
        self.hooks: list[str] = []
        self.remarks: list[str] = []

    def add_packages(self, packages: Path) -> None:
        """Add the packages of the project that are installed in the folder *packages* in editable mode."""
        names, known = sorted(os.listdir(packages)), set[str]()
        modules = {name.partition(".")[0] for name in names if not name.endswith(_NO_MODULES)}
        for name in names:
            if not name.endswith(".pth"):
                continue
            with suppress(OSError, ValueError):
                for line in (packages / name).read_text(encoding="utf-8-sig").splitlines():
                    hook = _HOOK.search(line) if line.startswith("import") else None
                    if hook is not None:
                        self._add_hook(packages / f"{hook[1]}.py", known, name)
                    elif line.strip() and not line.startswith(("#", "import")):
                        path = os.path.join(packages, line.strip())
                        if self._inside(path) is not None:
                            known.add(name)
                            self.add_folder(path, modules)
        for name in names:
            if name.endswith(".dist-info") and os.path.exists(os.path.join(packages, name, "direct_url.json")):
                self._check_known(packages / name, known)

    def add_folder(self, path: str, others: set[str] | frozenset[str] = frozenset()) -> None:
        """Add a folder of Python's path, if it is in the snapshot. *others* are the names of installed packages, which
        modules in it must not hide."""
        part = self._inside(path)
        if part is None or "site-packages" in part or not os.path.isdir(path):  # an environment in the project
            return
        prefix = f"{part}/" if part else ""
        below = [name[len(prefix) :] for name in self._files if name.startswith(prefix)]
        if not below and os.path.basename(path).startswith("__editable__."):  # setuptools' folder of links
            sources = {self._source_of(path, name) for name in sorted(os.listdir(path))} - {None}
            return self.add_folder(str(sources.pop()), others) if len(sources) == 1 else self._remark(part)
        names = {name.partition(".")[0] for name in below if "/" not in name and name.endswith(".py")}
        packages = sorted(name.partition("/")[0] for name in below if re.fullmatch(r"[^/]+/__init__\.py", name))
        checked = [f"{prefix}{name}" for name in packages] if not part else [part]
        what = ", ".join(packages) or part
        hidden = sorted((names | {*packages}) & (others | sys.stdlib_module_names) - _HARMLESS)
        if missing := next(filter(None, map(self._missing, checked)), "") or ("" if below else part):
            if not self._is_own(part):
                self._remark(what, f"{LACKS} '{missing}'{REMEDY}")
        elif others and hidden and not self._is_own(part):
            self._remark(what, f"'{prefix}{hidden[0]}' would hide the installed '{hidden[0]}'")
        else:
            self.folders.append(part)

    def _add_hook(self, path: Path, known: set[str], name: str) -> None:
        text = path.read_text(encoding="utf-8")
        found = re.findall(rf"""['"]{re.escape(_quoted(self._root))}[/\\]([^'"]*)['"]""", text)
        parts = [part.replace("\\\\", "/").removesuffix("/__init__.py") for part in found]
        if not parts:
            return
        known.add(name)
        lacking = (part for part in parts if not any(self._has(part, end) for end in ("", "/", ".")))
        if missing := next(lacking, "") or next(filter(None, map(self._missing, parts)), ""):
            if not self._is_own(posixpath.dirname(parts[0])):
                self._remark(parts[0], f"{LACKS} '{missing}'{REMEDY}")
        else:
            self.hooks.append(str(path))

    def _is_own(self, folder: str) -> bool:
        """Whether Python adds the folder of the snapshot to its path first in any case, as that of the script."""
        return self._has_own and folder == self._own

    def _has(self, part: str, end: str) -> bool:
        return any(name.startswith(part + end) if end else name == part for name in self._files)

    def _inside(self, path: str) -> str | None:
        """The path relative to the root of the snapshot, with `/`. None outside of it."""
        root, path = self._real_root, os.path.realpath(path)
        if path != root and not path.startswith(os.path.join(root, "")):
            return None
        return "" if path == root else path[len(os.path.join(root, "")) :].replace(os.sep, "/")

    def _source_of(self, folder: str, name: str) -> str | None:
        """The folder with the package or module *name*, whose files in *folder* are links."""
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            path = next((os.path.join(path, each) for each in sorted(os.listdir(path))), path)
        tail, source = os.path.relpath(path, folder), os.path.realpath(path)
        return source[: -len(tail)] if source.endswith(os.sep + tail) and os.path.islink(path) else None

    def _missing(self, part: str) -> str:
        """A file of the project's folder *part* that its code may need, and that the snapshot lacks: code, or data in a
        folder of the snapshot."""
        for parent, folders, names in walk_folders(os.path.join(self._root, part)):
            folders[:] = [each for each in folders if not each.startswith((".", "__pycache__", "__editable__."))]
            folders[:] = [each for each in folders if not each.endswith(".egg-info")]
            above = parent[len(self._root) + 1 :].replace(os.sep, "/")
            for name in names:
                path = posixpath.join(above, name)
                is_needed = name.endswith(_CODE) or above in self._parents
                if is_needed and path not in self._files and not name.startswith(".") and not name.endswith(_SKIPPED):
                    return path
        return ""

    def _check_known(self, info: Path, known: set[str]) -> None:
        """Add a remark if a distribution of the project in editable mode has none of the *known* `.pth` files."""
        from urllib.parse import unquote, urlsplit  # imported late, since every supervisor loads this module

        with suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
            origin = json.loads((info / "direct_url.json").read_text(encoding="utf-8"))
            folder = unquote(urlsplit(origin["url"]).path)
            folder = folder.lstrip("/") if os.name == "nt" else folder  # as url2pathname, which imports an HTTP client
            if origin["dir_info"].get("editable") and self._inside(folder) is not None:
                lines = (info / "RECORD").read_text(encoding="utf-8").splitlines()
                if not known.intersection(line.partition(",")[0] for line in lines):
                    self._remark(info.name.partition("-")[0], "himl does not support how it is installed")

    def _remark(self, what: str, why: str = f"{LACKS} it{REMEDY}") -> None:
        self.remarks.append(f"The job imports '{what}' from '{self._root}', not from its snapshot, since {why}.")


def _quoted(path: str) -> str:
    return repr(path)[1:-1]
