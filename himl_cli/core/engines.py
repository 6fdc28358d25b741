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
    engine = name.lower()
    if engine in ("", "azureml", "local") or "/" in f"{name}{place[:1]}":
        return None
    if not colon and (engine == "ssh" or is_engine(engine)):
        lacks = "HOST" if engine == "ssh" else "PARTITION" if engine in OWN else "PLACE"
        hint = f"Write {name}:{lacks}, or for the compute of Azure ML with this name, azureml:{name}"
        raise BadUsage(f"The cluster '{name}' names no {lacks.lower()}.", hint=hint)
    if not colon and "@" in name:  # as for ssh
        raise BadUsage(f"'{name}' is no name of a cluster.", hint=f"For a machine by SSH: --cluster ssh:{name}")
    if colon and not is_engine(engine):
        hint = f"Write --cluster slurm:{place} for Slurm, ssh:{place} for a machine, or {place} for Azure ML."
        if place.isdecimal() or not place:
            hint = f"Write --cluster {name} (its nodes decide the number of GPUs), or --cluster slurm:PARTITION"
        raise BadUsage(
            f"--cluster {name}:{place}: there is no engine '{name}', and the name of an Azure ML compute has no colon.",
            hint=hint,
        )
    return (engine, place) if colon else None
