"""What runs the jobs of a local workspace: this machine (`here`), or the engine of `--cluster NAME:PLACE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from himl_cli.workspaces.engine_modules import engine_module

if TYPE_CHECKING:
    from himl_cli.core.jobs import JobSpec
    from himl_cli.workspaces.local.engines.base import Engine


def engine_named(name: str) -> Engine:
    """The engine *name*. Raises NotFound if no installed package has it."""
    return cast("Engine", engine_module(name))


def engine_of(spec: JobSpec) -> Engine:
    """The engine in whose queue the job is. Raises NotFound."""
    assert spec.engine is not None, "a job of this machine"
    return engine_named(spec.engine.name)
