"""What a person should know of a job's environment before it is sent."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.installing import PACKAGE, environment_hint
from himl_cli.core.jobs import EnvironmentSpec

MODULE = "himl_cli"
OLDEST_PYTHON = (3, 10)
"""As `requires-python` of himl-cli has it."""

_PYTHON = re.compile(r"^\s*-\s*[\"']?python\s*={1,3}\s*(\d+)\.(\d+)", re.MULTILINE)


def environment_remarks(spec: EnvironmentSpec, entry_file: Path | None) -> Sequence[str]:
    """A warning where *entry_file* imports himl_cli and the environment lacks himl-cli, and where that would go into
    too old a Python.

    Nothing is said of environments that only their image knows: registered ones, and images without a conda file.
    """
    if not spec.conda or entry_file is None:
        return ()
    if holds_package(spec):
        return _remarks_on_python(spec.conda)
    if not imports_himl(entry_file):
        return ()
    return (
        f"warning: '{entry_file.name}' imports {MODULE}, and its environment lacks {PACKAGE}: {environment_hint()}.",
    )


def _remarks_on_python(conda: str) -> Sequence[str]:
    found = _PYTHON.search(conda)
    if found is None or (int(found[1]), int(found[2])) >= OLDEST_PYTHON:
        return ()
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return (
        f"warning: the environment has Python {found[1]}.{found[2]}, and {PACKAGE} needs {oldest} at least: its image "
        "cannot be built.",
    )


def holds_package(spec: EnvironmentSpec) -> bool:
    """Whether the conda file, or a private wheel, brings himl-cli."""
    texts = [*spec.conda.splitlines(), *(wheel.name for wheel in spec.wheels)]
    return any(re.search(rf"\b{PACKAGE}\b", re.sub(r"[_.]", "-", text.lower())) for text in texts)


def imports_himl(path: Path) -> bool:
    """Whether the Python file imports himl_cli anywhere. False for what cannot be read or parsed: the job will say so
    itself."""
    try:
        content = path.read_bytes()
        if MODULE.encode() not in content or path.suffix != ".py":
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in a script Python tells when it runs
            tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    return any(name.split(".")[0] == MODULE for node in ast.walk(tree) for name in _imported(node))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []
