"""What a person should know of a job's environment before it is sent."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.jobs import EnvironmentSpec

PACKAGE = "himl-cli"
MODULE = "himl_cli"


def environment_remarks(spec: EnvironmentSpec, entry_file: Path | None) -> Sequence[str]:
    """A warning where *entry_file* imports himl_cli and the environment lacks himl-cli.

    Nothing is said of environments that only their image knows: registered ones, and images without a conda file.
    """
    if not spec.conda or entry_file is None or holds_package(spec) or not imports_himl(entry_file):
        return ()
    return (f"warning: '{entry_file.name}' imports {MODULE}, and its environment lacks {PACKAGE}: add '{PACKAGE}' to its pip packages.",)


def holds_package(spec: EnvironmentSpec) -> bool:
    """Whether the conda file, or a private wheel, brings himl-cli."""
    texts = [*spec.conda.splitlines(), *(wheel.name for wheel in spec.wheels)]
    return any(re.search(rf"\b{PACKAGE}\b", re.sub(r"[_.]", "-", text.lower())) for text in texts)


def imports_himl(path: Path) -> bool:
    """Whether the Python file imports himl_cli anywhere. False for what cannot be read or parsed: the job will say so itself."""
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
