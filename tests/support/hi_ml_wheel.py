"""The released wheel of hi-ml-azure for comparisons, fetched once to `.cache/`, read and never imported.

`python -m tests.support.hi_ml_wheel` fetches it. If it is missing and cannot be fetched, tests that need it are skipped with the reason.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

REQUIREMENT = "hi-ml-azure==0.5.4"
PACKAGE = "health_azure/"
WHEEL = Path(__file__).parents[2] / ".cache" / "hi-ml" / "hi_ml_azure-0.5.4-py3-none-any.whl"
NO_DEFAULT = inspect.Parameter.empty


class WheelFailed(Exception):
    """The wheel cannot be fetched. The text is pip's last line."""


def public_names() -> Mapping[str, str]:
    """The public functions, classes and constants of its modules, each with its module's name."""
    return {name: module for module, tree in _modules().items() for name in _defined(tree) if not name.startswith("_") and name != "logger"}


def signature(name: str) -> dict[str, object]:
    """The arguments of a function or a class in order, with their defaults: a value, else its source, or NO_DEFAULT."""
    tree = _modules()[public_names()[name]]
    constants = {key: value for key, value in _defined(tree).items() if isinstance(value, ast.expr)}
    return {key: NO_DEFAULT if default is None else _value(default, constants) for key, default in _parameters(_defined(tree)[name])}


@cache
def fetched() -> Path:
    """The wheel's path. Raises WheelFailed."""
    WHEEL.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(WHEEL.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=WHEEL.parent) as folder:
        if not WHEEL.exists():
            if find_spec("pip") is None:  # environments of uv lack it
                subprocess.run((sys.executable, "-m", "ensurepip"), capture_output=True, check=True)
            command = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder, REQUIREMENT)
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise WheelFailed(done.stderr.strip().splitlines()[-1])
            (Path(folder) / WHEEL.name).replace(WHEEL)
    return WHEEL


@cache
def _modules() -> dict[str, ast.Module]:
    from tests.conftest import lacking  # imports parts of pytest

    try:
        wheel = fetched()
    except WheelFailed as e:
        lacking(f"{REQUIREMENT}, which pip cannot fetch: {e}")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(PACKAGE) and name.endswith(".py"))
        return {name.removeprefix(PACKAGE).removesuffix(".py"): ast.parse(archive.read(name)) for name in names}


def _defined(tree: ast.Module) -> dict[str, ast.AST]:
    """The top-level functions, classes and values of constants of a module by name."""
    found: dict[str, ast.AST] = {}
    for each in tree.body:
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            found[each.name] = each
        elif isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            found |= {target.id: each.value for target in targets if isinstance(target, ast.Name)}
    return found


def _parameters(what: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    if isinstance(what, ast.ClassDef):
        made = next((each for each in what.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
        if made is None:  # a dataclass
            fields = [each for each in what.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
            yield from ((ast.unparse(each.target), each.value) for each in fields)
        else:
            yield from (pair for pair in _parameters(made) if pair[0] != "self")
    elif isinstance(what, ast.FunctionDef):
        given = what.args
        positional = [*given.posonlyargs, *given.args]
        defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults, *given.kw_defaults]
        yield from zip((each.arg for each in (*positional, *given.kwonlyargs)), defaults, strict=True)


def _value(default: ast.AST, constants: Mapping[str, ast.expr]) -> object:
    source = constants.get(default.id, default) if isinstance(default, ast.Name) else default
    try:
        return ast.literal_eval(ast.unparse(source))
    except ValueError:
        return ast.unparse(default)


if __name__ == "__main__":
    try:
        fetched()
    except WheelFailed as failed:
        sys.exit(str(failed))
