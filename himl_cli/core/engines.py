"""The names of the engines that run local jobs elsewhere, `NAME` in `--cluster NAME:PLACE`.

Other packages add engines by the entry point group `himl.engines`: the name of an engine, and the module that is the
engine (`workspaces.local.engines.base.Engine`).
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache

from himl_cli.core.errors import NotFound

GROUP = "himl.engines"
OWN = {"slurm": "himl_cli.workspaces.local.engines.slurm"}
_ADDRESS = re.compile(r"([a-z][a-z0-9_-]*):(?!/)(.*)", re.IGNORECASE | re.DOTALL)


def _installed() -> dict[str, str]:
    return _installed_in(tuple(sys.path))


@lru_cache(maxsize=1)
def _installed_in(path: tuple[str, ...]) -> dict[str, str]:
    """The modules of engines by name, in the packages on Python's *path*."""
    from importlib.metadata import entry_points

    return {point.name.lower(): point.value for point in entry_points(group=GROUP)}


def is_engine(name: str) -> bool:
    return name in OWN or name in _installed()


def engines() -> list[str]:
    return sorted({*OWN, *_installed()})


def label_of(name: str) -> str:
    """The engine in a sentence, such as `Slurm`."""
    return name.capitalize()


def engine_address(cluster: str | None) -> tuple[str, str] | None:
    """NAME and PLACE (which may be empty) of `--cluster NAME:PLACE`, None for another compute target."""
    found = _ADDRESS.fullmatch(str(cluster or "").strip())
    if found is None or found[1].lower() == "azureml" or not is_engine(found[1].lower()):
        return None
    return found[1].lower(), found[2]


def module_of(name: str) -> str:
    """The module of the engine *name*. Raises NotFound if no installed package has it."""
    if name in OWN:
        return OWN[name]
    try:
        return _installed()[name]
    except KeyError:
        text = f"There is no engine '{name}'; there are: {', '.join(engines())}."
        raise NotFound(text, hint="Install the package that has it.") from None
