"""The modules of the engines that run local jobs elsewhere: himl's own, and those of other packages."""

from __future__ import annotations

import importlib
from types import ModuleType

from himl_cli.core.engines import OWN, engines, installed_engines
from himl_cli.core.errors import NotFound

OWN_PACKAGE = "himl_cli.workspaces.local.engines"


def engine_module(name: str) -> ModuleType:
    """The engine *name* (`workspaces.local.engines.base.Engine`). Raises NotFound if no installed package has it."""
    module = f"{OWN_PACKAGE}.{name}" if name in OWN else installed_engines().get(name)
    if module is None:
        text = f"There is no engine '{name}'; there are: {', '.join(engines())}."
        raise NotFound(text, hint="Install the package that has it.")
    return importlib.import_module(module)


def label_of(name: str) -> str:
    """The engine in a sentence, such as `Slurm`."""
    return str(engine_module(name).LABEL)
