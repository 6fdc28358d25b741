"""The check of what is released notices what is missing, changed or too much."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from himl_cli import __version__
from tests.support.packaged import IN_SOURCES, LEFT_OUT, METADATA, source_problems, wheel_problems

PACKAGE = {"himl_cli/__init__.py": b"version", "himl_cli/py.typed": b""}
WHEEL = f"himl_cli-{__version__}-py3-none-any.whl"
SOURCES = f"himl_cli-{__version__}.tar.gz"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, content in {**PACKAGE, "himl_cli/__pycache__/a.pyc": b"compiled"}.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "project"


def wheel(folder: Path, changes: dict[str, bytes | None], name: str = WHEEL) -> Path:
    """A wheel as it should be, with *changes*; None leaves a file out."""
    about = {f"himl_cli-{__version__}.dist-info/{one}": b"said" for one in METADATA}
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, content in {**PACKAGE, **about, **changes}.items():
            if content is not None:
                archive.writestr(member, content)
    return folder / name


def sources(folder: Path, changes: dict[str, bytes | None], name: str = SOURCES) -> Path:
    top = f"himl_cli-{__version__}/"
    held = {f"{top}{one}": content for one, content in {**dict.fromkeys(IN_SOURCES, b"text"), **PACKAGE}.items()}
    with tarfile.open(folder / name, "w:gz") as archive:
        for member, content in {**held, **changes}.items():
            if content is not None:
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder / name


def test_archives_as_they_should_be_have_no_problem(tmp_path: Path, project: Path) -> None:
    assert [*wheel_problems(wheel(tmp_path, {}), project), *source_problems(sources(tmp_path, {}), project)] == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"himl_cli/py.typed": None}, "package: lacks himl_cli/py.typed"),
        ({"himl_cli/__init__.py": b"older"}, "package: other bytes in himl_cli/__init__.py"),
        ({"tests/conftest.py": b""}, "package: holds tests/conftest.py"),
        ({"himl_cli/__pycache__/a.pyc": b"compiled"}, "package: holds himl_cli/__pycache__/a.pyc"),
        ({f"himl_cli-{__version__}.dist-info/licenses/LICENSE": None}, "metadata: lacks licenses/LICENSE"),
        ({"himl_cli/py.typed": bytes(2_000_001)}, "larger than 2,000,000 bytes"),
    ],
)
def test_a_wheel_that_differs_is_told(tmp_path: Path, project: Path, changes: dict[str, bytes | None], said: str) -> None:
    assert said in [*wheel_problems(wheel(tmp_path, changes), project)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"himl_cli-{__version__}/himl_cli/py.typed": None}, "lacks himl_cli/py.typed"),
        ({f"himl_cli-{__version__}/docs/design.md": None}, "lacks docs/design.md"),
        *(({f"himl_cli-{__version__}/tests/{trace}/x": b""}, f"holds tests/{trace}/x") for trace in LEFT_OUT),
        ({f"himl_cli-{__version__}/../himl": b""}, f"outside of himl_cli-{__version__}/: himl_cli-{__version__}/../himl"),
    ],
)
def test_a_source_archive_that_differs_is_told(tmp_path: Path, project: Path, changes: dict[str, bytes | None], said: str) -> None:
    assert said in [*source_problems(sources(tmp_path, changes), project)]


def test_another_version_is_told(tmp_path: Path, project: Path) -> None:
    told = [
        *wheel_problems(wheel(tmp_path, {}, "himl_cli-9.9.9-py3-none-any.whl"), project),
        *source_problems(sources(tmp_path, {}, "himl_cli-9.9.9.tar.gz"), project),
    ]
    assert told == [f"its name does not say {__version__}, for every platform", f"its name does not say {__version__}"]
