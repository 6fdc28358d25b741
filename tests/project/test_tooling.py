"""The project's own tools: CI definitions, scripts, and the distribution of tests. Also the claims of the package,
its lock files and its archives.
"""

from __future__ import annotations

import ast
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from himl_cli import __version__
from scripts.archives import IN_SOURCES, LEFT_OUT, METADATA, source_problems, wheel_problems
from scripts.generate import RUNS, stale, texts, write
from scripts.release_tag import CHANGELOG, newest_entry
from tests.support import fork_server
from tests.support.processes import processes_below
from tests.support.running import until, write_files
from tests.support.runs import posix
from tests.support.selection import PLACES
from tests.support.spreading import group_of, spread

PROJECT = Path(__file__).parents[2]
CI, NEWEST, RELEASE, AZURE = (
    *(f".github/workflows/{name}.yml" for name in ("ci", "newest", "release")),
    "azure-pipelines.yml",
)
SHARED_CLASSES = {
    **dict.fromkeys(("Run", "Workspace"), "the public API's, named as in hi-ml"),
    **dict.fromkeys(("RunStore", "RunArtifacts"), "plugins of MLflow, beside himl's own"),
}
"""Names of two public classes, and why. Add none."""
SHARED_CONSTANTS = {"RECORD", "RUN_NAME"}
"""Constants with one name that two modules export, or that more than three modules have. Add none."""


def workflow(name: str) -> dict[Any, Any]:
    """Load a workflow. YAML 1.1 parses the key `on` as true."""
    content: dict[Any, Any] = yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))
    return content


def jobs(document: dict[Any, Any]) -> list[dict[str, Any]]:
    return [*document["jobs"].values()] if isinstance(document["jobs"], dict) else document["jobs"]


def pairs(document: dict[Any, Any]) -> list[tuple[str, str]]:
    (matrix,) = [job["strategy"]["matrix"] for job in jobs(document)]
    return [(row["set"], row["python"]) for row in matrix.get("include") or matrix.values()]


def commands(document: dict[Any, Any]) -> Iterator[str]:
    """The commands of the steps, once per row of the matrix if they use it."""
    for line in (step.get("run") or step.get("bash") for job in jobs(document) for step in job["steps"]):
        if line is not None and ("matrix." in line or "$(" in line):
            for row in ({"set": name, "python": python} for name, python in pairs(document)):
                yield re.sub(
                    r"\$\{\{ matrix\.(\w+) \}\}|\$\((\w+)\)",
                    lambda found, row=row: row[found[1] or found[2]],  # type: ignore[misc]
                    line,
                )
        elif line is not None:
            yield line


@pytest.mark.parametrize("name", [CI, NEWEST, RELEASE, AZURE])
def test_ci_steps_are_scripts_or_pinned_actions(name: str) -> None:
    document = workflow(name)
    lines = [*commands(document)]
    assert lines
    for line in lines:
        found = re.fullmatch(r"((?:scripts|\.ci)/[\w-]+)((?: [\w.\"$-]+)*)", line)
        assert found, line
        assert os.access(PROJECT / found[1], os.X_OK)
    for job in jobs(document):
        others = [
            step.get("uses") or step.get("task") for step in job["steps"] if "run" not in step and "bash" not in step
        ]
        assert others
        assert all(re.fullmatch(r"[\w/-]+@(v\d+|\d+|[0-9a-f]{40})", str(each)) for each in others)
        assert 10 <= (job.get("timeout-minutes") or job["timeoutInMinutes"]) <= 120


def test_release_is_tested_then_published_without_token() -> None:
    """Only the job that publishes may sign in to the package index, and it runs only actions that are pinned by
    commit.
    """
    document = workflow(RELEASE)
    assert document[True] == {"push": {"tags": ["v*"]}}
    assert document["permissions"] == {"contents": "read"}
    build, publish = jobs(document)
    steps = [step.get("run") or step["uses"].partition("@")[0] for step in build["steps"]]
    assert steps[-3:] == [".ci/run", 'scripts/release "$GITHUB_REF_NAME"', "actions/upload-artifact"]
    assert publish["needs"] == "build"
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert build["steps"][-1]["with"] == {**publish["steps"][0]["with"], "if-no-files-found": "error"}
    assert "permissions" not in build
    assert publish["permissions"] == {"id-token": "write"}
    assert all(
        set(step) <= {"uses", "with"} and re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in publish["steps"]
    )
    assert "secrets." not in (PROJECT / RELEASE).read_text(encoding="utf-8")


@pytest.mark.timeout(601)
def test_smoke_selection_exists_and_patient_tests_come_first(request: pytest.FixtureRequest) -> None:
    (listed,) = re.findall(
        r"^SMOKE=\(\n(.*?)\n\)$",
        (PROJECT / "scripts" / "test-set").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert len(listed.split()) > 5
    assert [path for path in listed.split() if not (PROJECT / path).exists()] == []
    groups = ["", "", "a", "a", *[""] * 8, "b", "b", "b", *[""] * 7, "c", "a"]
    assert spread(list(range(24)), groups, 4) == [
        2,
        3,
        23,
        0,
        1,
        4,
        12,
        13,
        14,
        5,
        6,
        7,
        22,
        8,
        9,
        10,
        11,
        15,
        16,
        17,
        18,
        19,
        20,
        21,
    ]
    assert group_of(request.node) == str(request.node.path)
    assert {marker.args for marker in request.node.iter_markers("large")} == {
        ("may install a client",),
        (PLACES["tests/project/"],),
    }
    assert [place for place in PLACES if not (PROJECT / place).exists()] == []


@posix
def test_a_script_in_a_fork_ends_with_the_test_that_is_interrupted(tmp_path: Path) -> None:
    """What it left would fail a later test."""
    begun = tmp_path / "begun"
    write_files(
        tmp_path,
        {"waits.py": f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(600)\n", "prints.py": "print(5)"},
    )

    def interrupt() -> None:
        until(begun.exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def run(script: str) -> bytes:
        return fork_server.run([sys.executable], ["json"], [str(tmp_path / script)], tmp_path, os.environ).stdout

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run("waits.py")
    until(lambda: not processes_below(tmp_path), "the script has ended")
    assert run("prints.py") == b"5\n"


def test_public_names_have_one_meaning() -> None:
    """A class has a name of its own in the package, and so has a constant that other modules import."""
    classes: dict[str, set[str]] = {}
    constants: dict[str, set[str]] = {}
    exported: dict[str, set[str]] = {}
    for path in sorted((PROJECT / "himl_cli").rglob("*.py")):
        module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, set()).add(module)
            for target in (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            ):
                for name in {
                    each.id
                    for each in ast.walk(target)
                    if isinstance(each, ast.Name) and each.id.isupper() and len(each.id) > 1
                }:
                    constants.setdefault(name, set()).add(module)
        for imported in ast.walk(tree):
            if isinstance(imported, ast.ImportFrom) and imported.module is not None:
                for name in {alias.name for alias in imported.names if alias.name.isupper()}:
                    exported.setdefault(name, set()).add(imported.module)
    assert len(classes) > 300
    assert {
        name: found
        for name, found in classes.items()
        if len(found) > 1 and name[0] != "_" and name not in SHARED_CLASSES
    } == {}
    many = {
        name: found for name, found in constants.items() if len(found) > 3 or len(found & exported.get(name, set())) > 1
    }
    assert {name: found for name, found in many.items() if name[0] != "_" and name not in SHARED_CONSTANTS} == {}


def test_generated_files_are_listed_once_and_renewed(tmp_path: Path) -> None:
    """The command finds files that are missing, differ or are made no more, and mends exactly those."""
    assert write(tmp_path) == sorted(texts())
    assert stale(tmp_path) == write(tmp_path) == []
    write_files(tmp_path, {"docs/cli/gone.md": "a", "completions/himl.bash": "b"})
    (tmp_path / "docs" / "reliability.md").unlink()
    assert stale(tmp_path) == write(tmp_path) == ["completions/himl.bash", "docs/cli/gone.md", "docs/reliability.md"]
    assert (stale(tmp_path), (tmp_path / "docs" / "cli" / "gone.md").exists()) == ([], False)
    assert RUNS["lock"].command[:2] == ["bash", "-c"]
    assert RUNS["lock"].command[2].startswith("uv pip compile ")


def test_release_needs_matching_tag_and_changelog(tmp_path: Path) -> None:
    cases = {
        (
            "v99.0.0",
            f"{__version__} (2026-12-01)",
        ): f"The tag must be 'v{__version__}', the version of the package, not 'v99.0.0'.",
        (
            f"v{__version__}",
            "99.0.0 (2026-12-01)",
        ): f"The newest entry of the changelog must be {__version__}, the version of the package, not 99.0.0.",
        (
            f"v{__version__}",
            f"{__version__} (unreleased)",
        ): f"The changelog marks {__version__} as unreleased. Replace 'unreleased' with the date.",
        (f"v{__version__}", f"{__version__} (2026-12-01)"): "",
    }
    for (tag, heading), said in cases.items():
        (tmp_path / "changes.md").write_text(f"# Changelog\n\n## {heading}\n\n## 0.0.1 (2025-01-01)\n")
        command = [sys.executable, "-m", "scripts.release_tag", tag, str(tmp_path / "changes.md")]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr) == (1 if said else 0, "")
        assert not said or done.stdout == f"{said}\n"


# Their versions are dates, so a bound on the next major version would have no meaning.
BY_DATE = {"certifi", "packaging", "tifffile", "imagecodecs", "furo"}
LOCKS = {"requirements-dev.lock": "3.11", "requirements-oldest.lock": "3.10"}
# Their old pins stay out of the environments of the tests.
V1 = {"azureml-core", "azureml-train-core"}
EXTRAS = {"montage", "plot", "parquet", "frames", "sweep", "ui", "v1", "all"}
PACKAGE = {"himl_cli/__init__.py": b"version", "himl_cli/py.typed": b""}
TOP = f"himl_cli-{__version__}"


def pyproject() -> dict[str, Any]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content: dict[str, Any] = toml.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    return content


def requirements(*groups: str, extras: bool) -> list[Requirement]:
    """The requirements of the package, these groups and, if requested, its extras, each line once."""
    content = pyproject()
    lines = [
        line
        for lines in content["project"]["optional-dependencies"].values()
        for line in lines
        if extras and not line.startswith("himl-cli[")
    ]
    lines += [line for group in groups for line in content["dependency-groups"][group]]
    return [Requirement(line) for line in dict.fromkeys((*content["project"]["dependencies"], *lines))]


def wanted_on(python: str, found: list[Requirement]) -> list[Requirement]:
    return [
        each for each in found if each.marker is None or each.marker.evaluate({"python_version": python, "extra": ""})
    ]


def locked(lock: str = "requirements-dev.lock") -> dict[str, list[str]]:
    """The locked versions of each distribution (several if platforms or Pythons differ)."""
    pins: dict[str, list[str]] = {}
    for line in (PROJECT / lock).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition(" ;")[0].partition("==")
            pins.setdefault(canonicalize_name(name), []).append(version.strip())
    return pins


def test_locks_are_in_the_ranges_and_ranges_bounded() -> None:
    pins = locked()
    for requirement in wanted_on("3.11", requirements("dev", extras=False)):
        versions = pins[canonicalize_name(requirement.name)]
        assert versions
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement
    oldest = locked("requirements-oldest.lock")
    for requirement in wanted_on("3.10", requirements("dev", extras=True)):
        if requirement.name not in V1:
            (version,) = oldest[canonicalize_name(requirement.name)]
            (low,) = [each.version for each in requirement.specifier if each.operator == ">="]
            assert requirement.specifier.contains(version), requirement
            assert SpecifierSet(f"=={low}.*").contains(version), requirement
    bounds: dict[str, SpecifierSet] = {}
    for requirement in requirements("dev", "docs", extras=True):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == ({">="} if requirement.name in BY_DATE else {">=", "<"}), requirement
        assert bounds.setdefault(requirement.name, requirement.specifier) == requirement.specifier
    lines = (PROJECT / "examples" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {requirement.name for requirement in wanted} == {"mlflow-skinny", "scikit-learn", "tensorboard"}
    assert all(
        requirement.specifier.contains(locked()[canonicalize_name(requirement.name)][0]) for requirement in wanted
    )
    for lock, python in LOCKS.items():
        text = (PROJECT / lock).read_text(encoding="utf-8")
        assert not re.search(r"://|index-url|find-links|trusted-host", text)
        assert f"--python-version {python} " in text.splitlines()[1]
        assert len(locked(lock)) > 100
        assert all(versions and all(versions) for versions in locked(lock).values())


def test_pythons_version_and_extras_are_those_promised() -> None:
    project = pyproject()["project"]
    claimed = [line.rpartition(" :: ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    tested = pairs(workflow(NEWEST))
    assert [python for name, python in tested if name == "newest"] == claimed
    assert [python for name, python in tested if name == "oldest"] == [claimed[0]]
    assert project["requires-python"] == f">={claimed[0]}"
    for name in ("README.md", "docs/tutorial.md"):
        assert re.search(rf"Python {claimed[0]}\s+to\s+{claimed[-1]}", (PROJECT / name).read_text(encoding="utf-8"))
    newest = newest_entry(CHANGELOG.read_text(encoding="utf-8"))
    assert newest is not None
    assert newest[0] == __version__
    extras = project["optional-dependencies"]
    assert set(extras) == EXTRAS
    assert Requirement(extras["all"][0]).extras == EXTRAS - {"all", "v1"}


def wheel(folder: Path, changes: dict[str, bytes | None], version: str = __version__) -> Path:
    """A correct wheel with *changes*. None removes a file."""
    path = folder / f"himl_cli-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {
            **PACKAGE,
            **{f"{TOP}.dist-info/{one}": b"said" for one in METADATA},
            **changes,
        }.items():
            if content is not None:
                archive.writestr(member, content)
    return path


def sources(folder: Path, changes: dict[str, bytes | None]) -> Path:
    path, whole = folder / f"{TOP}.tar.gz", {**dict.fromkeys(IN_SOURCES, b"text"), **PACKAGE}
    with tarfile.open(path, "w:gz") as archive:
        for member, content in {**{f"{TOP}/{one}": text for one, text in whole.items()}, **changes}.items():
            if content is not None:
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def test_changed_archives_are_not_released(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_files(project, {**PACKAGE, "himl_cli/__pycache__/a.pyc": b"compiled"})
    wheels: dict[str, dict[str, bytes | None]] = {
        "package: does not contain himl_cli/py.typed": {"himl_cli/py.typed": None},
        "package: different bytes in himl_cli/__init__.py": {"himl_cli/__init__.py": b"older"},
        "package: contains himl_cli/__pycache__/a.pyc": {"himl_cli/__pycache__/a.pyc": b"compiled"},
        "metadata: does not contain licenses/LICENSE": {f"{TOP}.dist-info/licenses/LICENSE": None},
    }
    archives: dict[str, dict[str, bytes | None]] = {
        "does not contain docs/design.md": {f"{TOP}/docs/design.md": None},
        **{f"contains tests/{trace}/x": {f"{TOP}/tests/{trace}/x": b""} for trace in LEFT_OUT},
        f"outside {TOP}/: {TOP}/../himl": {f"{TOP}/../himl": b""},
    }
    assert [*wheel_problems(wheel(tmp_path, {}), project), *source_problems(sources(tmp_path, {}), project)] == []
    for said, changes in wheels.items():
        assert said in [*wheel_problems(wheel(tmp_path, changes), project)]
    for said, changes in archives.items():
        assert said in [*source_problems(sources(tmp_path, changes), project)]
    assert [*wheel_problems(wheel(tmp_path, {}, "9.9.9"), project)] == [
        f"its name must contain {__version__} and be for every platform"
    ]
