"""The definitions of CI hold no logic: each step that runs something runs a script of ours, with arguments that it takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli import __version__

PROJECT = Path(__file__).parents[2]
FILES = (".github/workflows/ci.yml", ".github/workflows/newest.yml", ".github/workflows/release.yml", "azure-pipelines.yml")
CLAIMED_LATER = ["3.14"]
"""Pythons that are tried every week, and that pyproject.toml does not claim."""
CRON = (range(60), range(24), range(1, 32), range(1, 13), range(7))
NEEDED = ("bash", "cat", "cksum", "dirname", "env", "grep", "id")

posix = pytest.mark.skipif(sys.platform == "win32", reason="a PATH of a few linked programs is made with symbolic links")


def workflow(name: str) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))
    return content


def jobs(document: dict[Any, Any]) -> list[dict[str, Any]]:
    """GitHub names jobs by keys, Azure Pipelines lists them."""
    return [*document["jobs"].values()] if isinstance(document["jobs"], dict) else document["jobs"]


def steps(document: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs(document) for step in job["steps"]]


def pairs(document: dict[Any, Any]) -> list[tuple[str, str]]:
    """Set and Python of each row of the matrix."""
    (matrix,) = [job["strategy"]["matrix"] for job in jobs(document)]
    return [(row["set"], row["python"]) for row in matrix.get("include") or matrix.values()]


def commands(document: dict[Any, Any]) -> Iterator[str]:
    """What the steps run, for each row of the matrix where they name one."""
    for step in steps(document):
        line = step.get("run") or step.get("bash")
        if line is None:
            continue
        if "matrix." not in line and "$(" not in line:
            yield line
            continue
        for name, python in pairs(document):
            yield re.sub(r"\$\{\{ matrix\.(\w+) \}\}|\$\((\w+)\)", lambda found, row={"set": name, "python": python}: row[found[1] or found[2]], line)  # type: ignore[misc]


def crons(document: dict[Any, Any]) -> list[str]:
    """YAML 1.1 reads the key `on` as true."""
    return [each["cron"] for each in document.get("schedules") or document[True].get("schedule", ())]


@pytest.mark.parametrize("name", FILES)
def test_a_step_runs_one_script_of_ours(name: str) -> None:
    lines = [*commands(workflow(name))]
    assert lines
    for line in lines:
        found = re.fullmatch(r"((?:scripts|\.ci)/[\w-]+)((?: [\w.\"$-]+)*)", line)
        assert found, line
        assert os.access(PROJECT / found[1], os.X_OK), line


@pytest.mark.parametrize("name", FILES)
def test_steps_without_script_are_actions_at_fixed_versions(name: str) -> None:
    others = [step.get("uses") or step.get("task") for step in steps(workflow(name)) if "run" not in step and "bash" not in step]
    assert others
    assert all(re.fullmatch(r"[\w/-]+@(v\d+|\d+|[0-9a-f]{40})", str(each)) for each in others)


@pytest.mark.parametrize("name", FILES)
def test_a_job_ends_by_itself(name: str) -> None:
    for job in jobs(workflow(name)):
        runs_ours = any("run" in step or "bash" in step for step in job["steps"])
        assert (60 if runs_ours else 10) <= (job.get("timeout-minutes") or job["timeoutInMinutes"]) <= 120


@pytest.mark.parametrize("name", [".github/workflows/ci.yml", ".github/workflows/release.yml"])
def test_a_job_that_runs_everything_sets_up_the_pythons_of_it(name: str) -> None:
    (sample,) = re.findall(r"^for pair in (.*); do$", (PROJECT / ".ci" / "sets").read_text(encoding="utf-8"), re.MULTILINE)
    (locked,) = re.findall(r"^LOCKED_PYTHON=(.*)$", (PROJECT / "scripts" / "_setup.sh").read_text(encoding="utf-8"), re.MULTILINE)
    (job,) = [job for job in jobs(workflow(name)) if {"run": ".ci/run"} in job["steps"]]
    (versions,) = [step["with"]["python-version"].split() for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert versions == [*re.findall(r"\w+ ([\d.]+)", sample), locked]


def test_both_services_try_the_same_on_the_same_day() -> None:
    github, azure = workflow(".github/workflows/newest.yml"), workflow("azure-pipelines.yml")
    assert pairs(github) == pairs(azure)
    assert [*commands(github)] == [*commands(azure)]
    assert crons(github) == crons(azure)
    (fields,) = [line.split() for line in crons(github)]
    assert all(field == "*" or int(field) in allowed for field, allowed in zip(fields, CRON, strict=True))


def test_the_pages_that_ci_has_built_are_kept() -> None:
    *_, building, keeping = steps(workflow(".github/workflows/ci.yml"))
    assert (building["run"], keeping["uses"].partition("@")[0], keeping["with"]) == (
        ".ci/run",
        "actions/upload-artifact",
        {"name": "docs", "path": "build/docs"},
    )
    assert "step scripts/docs\n" in (PROJECT / ".ci/run").read_text(encoding="utf-8")


def test_release_is_tested_then_published_without_token() -> None:
    document = workflow(".github/workflows/release.yml")
    assert document[True] == {"push": {"tags": ["v*"]}}
    assert document["permissions"] == {"contents": "read"}
    build, publish = jobs(document)
    assert [step.get("run") or step["uses"].partition("@")[0] for step in build["steps"]][-3:] == [
        ".ci/run",
        'scripts/release "$GITHUB_REF_NAME"',
        "actions/upload-artifact",
    ]
    assert publish["needs"] == "build"
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert build["steps"][-1]["with"] == {**publish["steps"][0]["with"], "if-no-files-found": "error"}
    assert "secrets." not in (PROJECT / ".github/workflows/release.yml").read_text(encoding="utf-8")


def test_publish_job_runs_only_actions_pinned_by_commit() -> None:
    """Only this job may sign in at the package index."""
    build, publish = jobs(workflow(".github/workflows/release.yml"))
    assert "permissions" not in build
    assert publish["permissions"] == {"id-token": "write"}
    assert all(set(step) <= {"uses", "with"} and re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in publish["steps"])


def test_the_smoke_selection_is_there() -> None:
    (listed,) = re.findall(r"^SMOKE=\(\n(.*?)\n\)$", (PROJECT / "scripts" / "test-set").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    paths = listed.split()
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / path).exists()] == []


@pytest.fixture
def in_copy(tmp_path: Path, require_program: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call it with a script of ours, its arguments and variables, to run that in a copy of the scripts with an environment, where no other Python is found."""
    checkout, programs = tmp_path / "a checkout", tmp_path / "bin"
    for folder in ("scripts", ".ci"):
        shutil.copytree(PROJECT / folder, checkout / folder)
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    programs.mkdir()
    for name in NEEDED:
        (programs / name).symlink_to(require_program(name))

    def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(programs), "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "pyenv"), **variables}
        return subprocess.run([str(checkout / script), *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    return run


def another_python() -> str:
    """One that is not the one of the tests, which .venv has in the copy."""
    return "3.12" if sys.version_info[:2] != (3, 12) else "3.13"


@posix
def test_missing_python_is_error_with_exit_status_77(in_copy: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = in_copy("scripts/test-set", "newest", another_python(), "--smoke")
    assert done.returncode == 77
    assert done.stderr == f"No Python {another_python()}, neither on PATH nor among those that pyenv keeps: the set 'newest' was not tested on it.\n"


@posix
@pytest.mark.skipif(sys.version_info[:2] in ((3, 10), (3, 13)), reason="the Python of the tests is one of the sample, and is found")
@pytest.mark.parametrize(("variables", "code"), [({}, 77), ({"CI": "true"}, 1), ({"TF_BUILD": "True"}, 1)])
def test_a_sample_that_is_not_tried_fails_in_ci(in_copy: Callable[..., subprocess.CompletedProcess[str]], variables: dict[str, str], code: int) -> None:
    done = in_copy(".ci/sets", **variables)
    assert (done.returncode, done.stdout.splitlines()) == (code, [f"Not tried, for lack of that Python: {pair}" for pair in ("oldest 3.10", "locked 3.13")])
    assert done.stderr.splitlines()[2:] == (["In CI the workflow has to set each of these Pythons up."] if variables else [])


@posix
@pytest.mark.parametrize(("arguments", "said"), [((), "There is no set ''."), (("old", "3.10"), "There is no set 'old'.")])
def test_a_set_that_is_none_is_refused(in_copy: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...], said: str) -> None:
    done = in_copy("scripts/test-set", *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == said
    assert done.stderr.splitlines()[1].startswith("Usage: scripts/test-set {oldest|locked|newest} [PYTHON]")


def released(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.support.released", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=100)


def test_tag_matching_version_and_changelog_is_released(tmp_path: Path) -> None:
    (tmp_path / "changes.md").write_text(f"# Changelog\n\n## {__version__} (2026-12-01)\n\n## 0.0.1 (2025-01-01)\n")
    done = released(f"v{__version__}", tmp_path / "changes.md")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        (__version__, f"{__version__} (2026-12-01)", f"The tag is '{__version__}'; the package says {__version__}, whose tag is 'v{__version__}'."),
        ("v99.0.0", f"{__version__} (2026-12-01)", f"The tag is 'v99.0.0'; the package says {__version__}, whose tag is 'v{__version__}'."),
        (f"v{__version__}", "99.0.0 (2026-12-01)", f"The changelog's newest entry is 99.0.0, the package says {__version__}."),
        (f"v{__version__}", f"{__version__} (unreleased)", f"The changelog calls {__version__} unreleased: give it its date."),
        (f"v{__version__}", f"{__version__} (soon)", "The changelog has no heading like '## 1.2.0 (2026-01-31)'."),
    ],
)
def test_a_tag_that_does_not_agree_is_not_released(tmp_path: Path, tag: str, heading: str, said: str) -> None:
    (tmp_path / "changes.md").write_text(f"# Changelog\n\n## {heading}\n")
    done = released(tag, tmp_path / "changes.md")
    assert (done.returncode, done.stdout.splitlines()) == (1, [said])
