"""The names of the engines that run local jobs elsewhere, `NAME` in `--cluster NAME:PLACE`.

Other packages add engines by the entry point group `himl.engines`: the name of an engine, and the module that is the
engine (`workspaces.local.engines.base.Engine`).
"""

from __future__ import annotations

from himl_cli.core.errors import BadUsage

GROUP = "himl.engines"
SLURM = "slurm"
OWN = (SLURM,)  # the modules of these names in himl_cli/workspaces/local/engines/


def installed_engines() -> dict[str, str]:
    """The modules of engines of other packages, by name."""
    from himl_cli.core.installation import entry_points_of  # imported late, since completion does not need it

    return {name: point.value for name, point in entry_points_of(GROUP).items()}


def is_engine(name: str) -> bool:
    return name in OWN or name in installed_engines()


def engines() -> list[str]:
    return sorted({*OWN, *installed_engines()})


def engine_address(cluster: str | None) -> tuple[str, str] | None:
    """NAME and PLACE (which may be empty) of `--cluster NAME:PLACE`, None for another compute target. Raises BadUsage
    for the name of an engine alone, and for an unknown NAME."""
    name, colon, place = str(cluster or "").strip().partition(":")
    if name.lower() in ("", "azureml", "local") or "/" in f"{name}{place[:1]}":
        return None
    if not is_engine(name.lower()):
        if not colon:
            return None
        raise BadUsage(
            f"--cluster {name}:{place}: there is no engine '{name}', and the name of an Azure ML compute has no colon.",
            hint=f"Write --cluster {name} (its nodes decide the number of GPUs), or --cluster slurm:PARTITION",
        )
    if not colon:
        where = f"{name}:{'PARTITION' if name.lower() in OWN else 'PLACE'}"
        hint = f"Write {where}, or for the compute of Azure ML with this name, azureml:{name}"
        raise BadUsage(f"The cluster '{name}' is an engine of local jobs, without a place in it.", hint=hint)
    return name.lower(), place
