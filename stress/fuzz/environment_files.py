"""Parsers of files that describe an environment: conda, requirements, the version of Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.environment import conda_text, python_version, read_conda_file, requirements_as_conda
from stress.fuzz.file_targets import Row, text_targets, values_target
from stress.fuzz.target import Target, written

CONDA = (
    "name: x\nchannels: [conda-forge, defaults]\ndependencies:\n  - python=3.11\n  - pytorch::torch>=2,<3\n"
    "  - numpy\n  - pip:\n    - torch==2.1\n    - --index-url https://h/s\nvariables: {A: 1}\n",
)
CONDA_WORDS = ("dependencies:", "- pip:\n", "- python=3.9\n", "channels:", "https://u:p@h/x.conda", "==", "[build=1]")
REQUIREMENTS = (
    "numpy==1.26  # comment\ntorch>=2 \\\n  ,<3\n-r other.txt\n--extra-index-url https://u:p@h/simple\n-e git+https://h/r#egg=r\n",
    "-r requirements.txt\n",
    "-c c.txt\n",
)


def _conda(content: bytes) -> None:
    conda_text(read_conda_file(written("environment.yml", content)))


def _requirements(content: bytes) -> None:
    written("other.txt", b"scipy\n-r requirements.txt\n" if content.startswith(b"-r other") else b"scipy\n")
    conda_text(requirements_as_conda(written("requirements.txt", content), Path.cwd(), Path.cwd(), {}))


def _python_version(content: bytes) -> None:
    written(".python-version", content)
    assert python_version(Path.cwd(), Path.cwd(), {}).isprintable()


TEXT_FILES: Sequence[Row] = (
    ("conda", _conda, CONDA, CONDA_WORDS, (BadUsage,)),
    ("requirements", _requirements, REQUIREMENTS, ("-r ", "-c ", "\\\n", "--hash=", "${A}", " # "), (BadUsage,)),
    ("python_version", _python_version, ("3.11\n", "pypy3.10\n", "3.11.4/envs/x\n3.10"), (), (BadUsage,)),
)


def targets() -> list[Target]:
    return [
        *text_targets(TEXT_FILES),
        values_target("conda", _conda, CONDA),
    ]
