"""The job's copy of packages that are installed in editable mode, for every form in which installers leave them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.editables import stage_modules, with_editables, with_snapshot_first
from himl_cli.core.installed import environment_of
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.processes import JOB_FOLDER
from himl_cli.workspaces.local.run_folder import RunFolder
from tests.support.running import Himl, write_files
from tests.support.runs import posix

HOOK = """
import sys
from importlib.util import spec_from_file_location
MAPPING: dict[str, str] = {}
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            folder = MAPPING[name]
            return spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])
def install():
    sys.meta_path.append(Finder)
"""
SHOW = "import importlib, sys\nfor name in sys.argv[1:]:\n    print(importlib.import_module(name).__file__)"


def environment(folder: Path, files: Mapping[str, str]) -> Path:
    """Make a virtual environment with *files* in `site-packages`, and return its Python."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    write_files(packages, files)
    write_files(folder, {"pyvenv.cfg": f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n"})
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    return folder / "bin" / "python"


def hook(name: str, **mapping: str) -> str:
    return HOOK.replace("{}", repr(mapping), 1) + ("" if name else "install()\n")


def spec_of(root: Path, python: Path, script: str = "scripts/train.py") -> JobSpec:
    names = [
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and "left" not in path.name
    ]
    return JobSpec("e", Entry(EntryKind.script, script), Snapshot(root, names, 0), python=str(python))


def imported(spec: JobSpec, folder: RunFolder, *names: str, env: Mapping[str, str] | None = None) -> list[str]:
    """Return the files of the modules *names*, relative to the snapshot or the project, that a job of *spec*
    imports.
    """
    for name in spec.snapshot.files:
        write_files(folder.code, {name: (spec.snapshot.root / name).read_text()})
    if spec.editables is not None:
        stage_modules(spec.editables, folder.code)
    variables = with_snapshot_first({**(env or {}), JOB_FOLDER: str(folder.code)}, spec.editables)
    done = subprocess.run([spec.python, "-c", SHOW, *names], cwd="/", env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [
        line.replace(str(folder.path), "RUN").replace(str(spec.snapshot.root), "ROOT")
        for line in done.stdout.splitlines()
    ]


@posix
def test_every_form_of_editable_install_runs_the_snapshot(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", RunFolder(tmp_path / "ws" / "runs" / "r")
    places = {
        "inner": "src/inner",
        "poet": "flat/poet",
        "old": "old/old",
        "flat": "flat2/flat",
        "renamed": "lib/other",
        "exact": "exact/exact",
    }
    write_files(
        root,
        {f"{place}/{file}": "" for place in (*places.values(), "linked/strict") for file in ("__init__.py", "deep.py")},
    )
    write_files(root, {"scripts/train.py": "", "by_variable/named/__init__.py": ""})
    links = root / "build" / "__editable__.strict-0.1"
    (links / "strict").mkdir(parents=True)
    for name in ("__init__.py", "deep.py"):
        (links / "strict" / name).symlink_to(root / "linked" / "strict" / name)
    at = {name: str(root / place) for name, place in places.items()}
    files = {
        "__editable__.inner-0.1.pth": f"{root}/src\n",  # setuptools with src/, in the same form hatch and PDM
        "poet.pth": f"{root}/flat",
        "easy-install.pth": f"# comment\n{root}/old\n",
        "__editable__.strict-0.1.pth": f"{links}\n",
        "__editable__.flat-0.1.pth": "import __editable___flat_0_1_finder; __editable___flat_0_1_finder.install()",
        "__editable___flat_0_1_finder.py": hook("flat", flat=at["flat"], renamed=at["renamed"]),
        "_editable_impl_exact.pth": "import _editable_impl_exact",
        "_editable_impl_exact.py": hook("", exact=at["exact"]),
        "elsewhere.pth": f"{tmp_path}\n",
    }
    (tmp_path / "elsewhere.py").touch()
    python = environment(root / "ve", files)
    spec = spec_of(root, python)
    spec = replace(
        spec,
        snapshot=replace(
            spec.snapshot, files=[name for name in spec.snapshot.files if not name.startswith(("ve/", "build/"))]
        ),
    )
    spec, remarks = with_editables(spec, {"PYTHONPATH": f"relative:{root}/by_variable"})
    found = imported(
        spec,
        folder,
        *places,
        "flat.deep",
        "inner.deep",
        "strict.deep",
        "named",
        "elsewhere",
        env={"PYTHONPATH": f"{root}/by_variable"},
    )
    expected = [f"RUN/code/{place}/__init__.py" for place in places.values()]
    expected += [
        f"RUN/code/{name}"
        for name in (
            "flat2/flat/deep.py",
            "src/inner/deep.py",
            "linked/strict/deep.py",
            "by_variable/named/__init__.py",
        )
    ]
    assert (found, remarks) == ([*expected, str(tmp_path / "elsewhere.py")], [])


@posix
@pytest.mark.parametrize(
    ("more", "lacking", "words"),
    [
        ({"src/pkg/left.so": ""}, "", "'src/pkg/left.so'. To change that, stop ignoring it."),
        ({"src/pkg/sub/left_version.py": ""}, "", "'src/pkg/sub/left_version.py'"),
        ({"src/pkg/left.json": ""}, "", "'src/pkg/left.json'"),
        ({"src/pkg/data/left.bin": "", "src/pkg/.left": "", "src/pkg/__pycache__/left.pyc": ""}, "", None),
        ({}, "src", "since the snapshot lacks 'src/pkg/__init__.py'."),
        ({"src/installed.py": ""}, "", "'src/installed' would hide the installed 'installed'."),
    ],
)
def test_without_all_parts_the_project_is_used_and_that_is_said(
    tmp_path: Path, more: Mapping[str, str], lacking: str, words: str | None
) -> None:
    root = tmp_path / "root"
    write_files(root, {"src/pkg/__init__.py": "", "src/pkg/sub/a.py": "", "scripts/train.py": "", **more})
    python = environment(tmp_path / "ve", {"pkg.pth": f"{root}/src", "installed/__init__.py": ""})
    spec = spec_of(root, python)
    spec = replace(
        spec,
        snapshot=replace(
            spec.snapshot, files=[name for name in spec.snapshot.files if not lacking or not name.startswith(lacking)]
        ),
    )
    spec, remarks = with_editables(spec, {})
    place = "RUN/code" if words is None else "ROOT"
    assert imported(spec, RunFolder(tmp_path / "ws" / "runs" / "r"), "pkg") == [f"{place}/src/pkg/__init__.py"]
    assert len(remarks) == (words is not None)
    assert words is None or words in remarks[0], remarks


@posix
def test_nothing_is_said_of_a_package_beside_the_script(tmp_path: Path) -> None:
    """Python finds it in the snapshot in any case."""
    root = tmp_path / "root"
    write_files(root, {"train.py": "", "pkg/__init__.py": "", "pkg/left.so": "", "installed.py": ""})
    for files in (
        {"pkg.pth": f"{root}\n"},
        {"a.pth": "import __editable___pkg_finder", "__editable___pkg_finder.py": hook("pkg", pkg=f"{root}/pkg")},
    ):
        python = environment(tmp_path / f"ve{len(files)}", {"installed/__init__.py": "", **files})
        assert with_editables(spec_of(root, python, "train.py"), {})[1] == []


@posix
def test_a_module_that_is_neither_in_the_snapshot_nor_the_project_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_files(root, {"scripts/train.py": "", "pkg/__init__.py": ""})
    files = {
        "a.pth": "import __editable___pkg_finder",
        "__editable___pkg_finder.py": hook("pkg", pkg=f"{root}/pkg", gone=f"{root}/gone"),
    }
    (remark,) = with_editables(spec_of(root, environment(tmp_path / "ve", files)), {})[1]
    assert remark.startswith(
        f"The job imports 'pkg' from '{root}', not from its snapshot, since the snapshot lacks 'gone'"
    )


@posix
def test_an_unknown_form_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_files(root, {"scripts/train.py": "", "pkg/__init__.py": ""})
    origin = json.dumps({"url": root.as_uri(), "dir_info": {"editable": True}})
    files = {
        "pkg-editable.pth": "import _loader",
        "_loader.py": "",
        "pkg-1.dist-info/direct_url.json": origin,
        "pkg-1.dist-info/RECORD": "pkg-editable.pth,,\n",
    }
    spec, remarks = with_editables(spec_of(root, environment(tmp_path / "ve", files)), {})
    assert (spec.editables, remarks) == (
        None,
        [
            f"The job imports 'pkg' from '{root}', not from its snapshot, since himl does not support how "
            "it is installed."
        ],
    )


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_trials_import_the_snapshot_although_the_project_is_edited(himl: Himl, project: Path, tmp_path: Path) -> None:
    edit = f"open({str(project / 'src' / 'pkg' / '__init__.py')!r}, 'w').write('VALUE = 2')"
    script = f"import sys\nimport pkg\nprint('VALUE', pkg.VALUE)\n{edit}\n"
    write_files(project, {"pyproject.toml": "", "src/pkg/__init__.py": "VALUE = 1", "scripts/train.py": script})
    python = environment(tmp_path / "ve", {"pkg.pth": f"{project}/src"})
    run = himl.ok("submit", "scripts/train.py", "--python", python, "--sweep", "x=1,2", "-q").stdout.strip()
    assert ["VALUE 1" in himl.ok("runs", "logs", f"{run}_{index}").stdout for index in (0, 1)] == [True, True]


def test_installed_packages_are_read_without_their_interpreter(tmp_path: Path) -> None:
    """Versions of each form of metadata, those of conda, and those that come first on Python's path."""
    files = {
        "A_b.C-1.0.dist-info/METADATA": "",
        "old-2.0-py3.11.egg-info/PKG-INFO": "",
        "bare.egg-info/PKG-INFO": "Name: bare\nVersion: 3.1\n",
    }
    python = environment(tmp_path / "env", files | {"twice-1.dist-info/METADATA": "", "no_metadata.py": ""})
    write_files(
        tmp_path,
        {
            "first/twice-2.dist-info/METADATA": "",
            "env/conda-meta/cuda-x-12.4-h1_0.json": "{}",
            "env/conda-meta/history": "",
        },
    )
    found = environment_of(str(python), os.pathsep.join(["relative", str(tmp_path / "first")]))
    assert found.packages == {"a-b-c": "1.0", "bare": "3.1", "cuda-x": "12.4", "old": "2.0", "twice": "2"}
    assert (found.python, found.problem, found.version[:2]) == (str(python), "", "3.")
    assert {"host", "os", "cpus"} <= {*found.machine}
    unknown = environment_of(str(tmp_path / "nothing"))
    assert (unknown.packages, unknown.problem) == (None, "this machine does not have the interpreter")
