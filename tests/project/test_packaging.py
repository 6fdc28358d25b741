"""What the package promises about its dependencies, its Pythons and its version, and what its lock files hold."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from himl_cli import __version__
from tests.project.test_workflows import CLAIMED_LATER, pairs, workflow
from tests.support.released import CHANGELOG, newest_entry

PROJECT = Path(__file__).parents[2]
BY_DATE = {"certifi", "packaging", "tifffile", "imagecodecs", "furo"}  # their versions are dates, a bound on the next major means nothing
LOCKED_PYTHON = "3.11"
OLDEST_PYTHON = "3.10"
LOCKS = {"requirements-dev.lock": LOCKED_PYTHON, "requirements-oldest.lock": OLDEST_PYTHON}
V1 = {"azureml-core", "azureml-train-core"}  # their old pins stay out of the environments of the tests
EXTRAS = {"montage", "plot", "parquet", "frames", "sweep", "v1", "all"}


def pyproject() -> dict[str, Any]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content: dict[str, Any] = toml.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    return content


def base_and_dev() -> list[Requirement]:
    content = pyproject()
    return [Requirement(line) for line in (*content["project"]["dependencies"], *content["dependency-groups"]["dev"])]


def asked_for() -> list[Requirement]:
    """Whatever the package, its extras and all groups ask for, each line once."""
    content = pyproject()
    extras = [line for lines in content["project"]["optional-dependencies"].values() for line in lines if not line.startswith("himl-cli[")]
    groups = [line for lines in content["dependency-groups"].values() for line in lines]
    return [Requirement(line) for line in dict.fromkeys((*content["project"]["dependencies"], *extras, *groups))]


def in_oldest() -> list[Requirement]:
    """What the oldest set holds the lower bounds of: the package, its extras, and the tools of the tests."""
    docs = {Requirement(line).name for line in pyproject()["dependency-groups"]["docs"]}
    return [each for each in asked_for() if each.name not in V1 | docs]


def is_for(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python, "extra": ""})


def locked(lock: str = "requirements-dev.lock") -> dict[str, list[str]]:
    """The locked versions of each distribution (several where platforms or Pythons differ)."""
    pins: dict[str, list[str]] = {}
    for line in (PROJECT / lock).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition(" ;")[0].partition("==")
            pins.setdefault(canonicalize_name(name), []).append(version.strip())
    return pins


def lower_bound(requirement: Requirement) -> str:
    (low,) = [each.version for each in requirement.specifier if each.operator == ">="]
    return low


@pytest.mark.parametrize("requirement", [each for each in base_and_dev() if is_for(each, LOCKED_PYTHON)], ids=lambda requirement: requirement.name)
def test_the_lock_has_a_version_that_the_range_allows(requirement: Requirement) -> None:
    versions = locked()[canonicalize_name(requirement.name)]
    assert versions
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


@pytest.mark.parametrize("requirement", [each for each in in_oldest() if is_for(each, OLDEST_PYTHON)], ids=lambda requirement: requirement.name)
def test_the_oldest_lock_has_the_lower_bound(requirement: Requirement) -> None:
    """The first version of the series that the bound names: 1.8.2 for `>=1.8` where that was the first."""
    (version,) = locked("requirements-oldest.lock")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)
    assert SpecifierSet(f"=={lower_bound(requirement)}.*").contains(version)


@pytest.mark.parametrize("requirement", asked_for(), ids=lambda requirement: requirement.name)
def test_a_dependency_is_bounded_on_both_sides(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == ({">="} if requirement.name in BY_DATE else {">=", "<"})


def test_what_is_asked_for_twice_is_asked_for_alike() -> None:
    """As numpy is, by an extra and by the tests."""
    bounds: dict[str, set[SpecifierSet]] = {}
    for requirement in asked_for():
        bounds.setdefault(requirement.name, set()).add(requirement.specifier)
    assert [name for name, specifiers in bounds.items() if len(specifiers) > 1] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_registry_and_pins_everything(lock: str) -> None:
    text = (PROJECT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|trusted-host", text)
    assert f"--python-version {LOCKS[lock]} " in text.splitlines()[1]
    pins = locked(lock)
    assert len(pins) > 100
    assert all(versions and all(versions) for versions in pins.values())


def test_pythons_that_are_claimed_are_tested() -> None:
    project = pyproject()["project"]
    claimed = [line.rpartition(" :: ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    tested = pairs(workflow(".github/workflows/newest.yml"))
    assert [python for name, python in tested if name == "newest"] == [*claimed, *CLAIMED_LATER]
    assert [python for name, python in tested if name == "oldest"] == [OLDEST_PYTHON]
    assert project["requires-python"] == f">={claimed[0]}"
    assert f"Python {claimed[0]} to {claimed[-1]}" in (PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_changelog_begins_with_this_version() -> None:
    newest = newest_entry(CHANGELOG.read_text(encoding="utf-8"))
    assert newest is not None
    assert newest[0] == __version__


def test_all_is_every_extra_but_the_legacy_sdk() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    assert set(extras) == EXTRAS
    (everything,) = extras["all"]
    assert Requirement(everything).extras == EXTRAS - {"all", "v1"}


def test_the_example_asks_for_what_the_lock_has() -> None:
    lines = (PROJECT / "examples" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {requirement.name for requirement in wanted} == {"mlflow-skinny", "scikit-learn", "tensorboard"}
    assert all(requirement.specifier.contains(locked()[canonicalize_name(requirement.name)][0]) for requirement in wanted)
