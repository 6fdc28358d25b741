"""What the package promises about its dependencies, and what its lock file holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # Python 3.11

PROJECT = Path(__file__).parents[2]
BY_DATE = {"certifi", "packaging", "tifffile", "imagecodecs"}  # their versions are dates, a bound on the next major means nothing
LOCKED_PYTHON = "3.11"
EXTRAS = {"montage", "plot", "parquet", "sweep", "v1", "all"}


def pyproject() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    return content


def base_and_dev() -> list[Requirement]:
    content = pyproject()
    return [Requirement(line) for line in (*content["project"]["dependencies"], *content["dependency-groups"]["dev"])]


def is_for_locked_python(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": LOCKED_PYTHON})


def locked() -> dict[str, list[str]]:
    """The locked versions of each distribution (several where platforms or Pythons differ)."""
    pins: dict[str, list[str]] = {}
    for line in (PROJECT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition(" ;")[0].partition("==")
            pins.setdefault(canonicalize_name(name), []).append(version.strip())
    return pins


@pytest.mark.parametrize("requirement", [each for each in base_and_dev() if is_for_locked_python(each)], ids=lambda requirement: requirement.name)
def test_the_lock_has_a_version_that_the_range_allows(requirement: Requirement) -> None:
    versions = locked()[canonicalize_name(requirement.name)]
    assert versions
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


@pytest.mark.parametrize("requirement", base_and_dev(), ids=lambda requirement: requirement.name)
def test_a_dependency_is_bounded_on_both_sides(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert operators == ({">="} if requirement.name in BY_DATE else {">=", "<"})


def test_the_lock_names_no_registry_and_pins_everything() -> None:
    text = (PROJECT / "requirements-dev.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|index-url|find-links|trusted-host", text)
    pins = locked()
    assert len(pins) > 100
    assert all(versions and all(versions) for versions in pins.values())


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
