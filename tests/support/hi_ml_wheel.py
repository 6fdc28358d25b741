"""The released wheels of hi-ml-azure and hi-ml for comparisons, fetched once to `.cache/`, read and never imported.

`python -m tests.support.hi_ml_wheel` fetches them. If one is missing and cannot be fetched, tests that need it are
skipped with the reason."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

WHEELS = {"health_azure": "hi-ml-azure==0.5.4", "health_ml": "hi-ml==0.5.4"}
CACHE = Path(__file__).parents[2] / ".cache" / "hi-ml"
NO_DEFAULT = inspect.Parameter.empty


class WheelFailed(Exception):
    """The wheel cannot be fetched. The text is pip's last line."""


def public_names(package: str = "health_azure") -> Mapping[str, str]:
    """The public functions, classes and constants of its modules, each with its module's name."""
    return {
        name: module
        for module, tree in _modules(package).items()
        for name in _defined(tree)
        if not name.startswith("_") and name != "logger"
    }


def exported(package: str = "health_azure", module: str = "__init__") -> list[str]:
    """The names in `__all__` of a module."""
    found: list[str] = ast.literal_eval(ast.unparse(_defined(_modules(package)[module])["__all__"]))
    return found


def required(package: str = "health_azure") -> set[str]:
    """The names of the packages that the wheel requires, in lower case."""
    lines = _texts(package)["METADATA"].splitlines()
    return {
        re.split(r"[ (\[;<>=!~]", line.partition(": ")[2])[0].lower()
        for line in lines
        if line.startswith("Requires-Dist:")
    }


def script(name: str) -> str:
    """The text of a module of the wheel: `examples/elevate_this`."""
    return _texts("health_azure")[name]


def signature(name: str, package: str = "health_azure") -> dict[str, object]:
    """The arguments of a function or a class in order, with their defaults: a value, else its source, or NO_DEFAULT."""
    return signature_in(_modules(package)[public_names(package)[name]], name)


def signature_in(tree: ast.Module, name: str) -> dict[str, object]:
    """As `signature`, of a function or class of a module that is not imported."""
    constants = {key: value for key, value in _defined(tree).items() if isinstance(value, ast.expr)}
    return {
        key: NO_DEFAULT if default is None else _value(default, constants)
        for key, default in _parameters(_defined(tree)[name])
    }


def methods_in(tree: ast.Module, name: str) -> dict[str, list[str]]:
    """The positional arguments of each public method of a class, without self. Properties are not methods."""
    (found,) = (each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    methods = [each for each in found.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
    properties = {
        each.name
        for each in methods
        if any(ast.unparse(one).endswith(("property", ".setter")) for one in each.decorator_list)
    }
    return {
        each.name: [one.arg for one in each.args.args if one.arg not in ("self", "cls")]
        for each in methods
        if each.name not in properties
    }


@cache
def fetched(package: str) -> Path:
    """The path of the package's wheel. Raises WheelFailed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    wheel = CACHE / f"{WHEELS[package].replace('==', ' ').replace('-', '_').replace(' ', '-')}-py3-none-any.whl"
    with FileLock(wheel.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=CACHE) as folder:
        if not wheel.exists():
            if find_spec("pip") is None:  # environments of uv lack it
                subprocess.run((sys.executable, "-m", "ensurepip"), capture_output=True, check=True)
            command = (
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--dest",
                folder,
                WHEELS[package],
            )
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise WheelFailed(done.stderr.strip().splitlines()[-1])
            (Path(folder) / wheel.name).replace(wheel)
    return wheel


def _modules(package: str) -> dict[str, ast.Module]:
    return {name: _parsed(text) for name, text in _texts(package).items() if name != "METADATA"}


_parsed = cache(ast.parse)


@cache
def _texts(package: str) -> dict[str, str]:
    """The modules of a wheel by name, and its METADATA."""
    from tests.conftest import lacking  # imports parts of pytest

    try:
        wheel = fetched(package)
    except WheelFailed as e:
        lacking(f"{WHEELS[package]}, which pip cannot fetch: {e}")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(f"{package}/") and name.endswith(".py"))
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        found = {name.removeprefix(f"{package}/").removesuffix(".py"): archive.read(name).decode() for name in names}
        return {**found, "METADATA": archive.read(metadata).decode()}


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
            fields = [
                each for each in what.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
            ]
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
        for each in WHEELS:
            fetched(each)
    except WheelFailed as failed:
        sys.exit(str(failed))
