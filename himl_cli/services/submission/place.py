"""What fits where the job runs: options that exclude each other are refused before anything happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DISTRIBUTIONS, HERE
from himl_cli.core.spelling import filled
from himl_cli.services.submission.quantities import MOST, count_wanted, whole_number
from himl_cli.services.submission.request import AZURE, SubmitRequest

CHOICES = {
    "distribution": DISTRIBUTIONS,
    "identity": ("user", "managed"),
    "record_in": (HERE, AZURE),
    "sdk": ("v2", "v1"),
}
HERE_ONLY = ("in_place", "python", "record_in")
CLUSTER_ONLY = (
    *(
        "shm_size",
        "docker_args",
        "identity",
        "no_mpi_single_node",
        "conda_env",
        "requirements",
        "environment",
        "docker_image",
    ),
    *(
        "pip_extra_index_url",
        "private_wheel",
        "build_context",
        "dockerfile",
        "instance_type",
        "vscode",
        "jupyter",
        "ssh_key",
        "sdk",
    ),
)
MADE_FROM_FILES = ("conda_env", "requirements", "docker_image", "pip_extra_index_url", "private_wheel")
WAYS_TO_ENVIRONMENTS = (("environment",), MADE_FROM_FILES, ("build_context", "dockerfile"))


def check_place(request: SubmitRequest) -> None:
    """Raises BadUsage for values that no job can have, and for what was typed and cannot be done where the job runs."""
    for name in ("command", "cluster", "checkpoint"):
        filled(f"--{name}", getattr(request, name))
    given = [
        what
        for value, what in ((request.target, "A script"), (request.module, "-m MODULE"), (request.command, "--command"))
        if value
    ]
    if len(given) != 1:
        hint = 'himl submit SCRIPT.py, or himl submit -m package.module, or himl submit --command "PROGRAM ..."'
        raise BadUsage(f"{given[0]} and {given[1]} were both given." if given else "Nothing to run.", hint=hint)
    for name, choices in CHOICES.items():
        value = getattr(request, name)
        if value is not None and value not in choices:
            raise BadUsage(f"--{name} cannot be '{value}'.", hint=f"It is one of: {', '.join(choices)}.")
    for name in ("num_nodes", "processes_per_node"):
        value = getattr(request, name)
        if isinstance(value, int) and value < 1:
            raise BadUsage(f"--{name} {value}: at least 1 is needed.")
        if value is not None and whole_number(value, MOST[name]) is None:
            raise BadUsage(f"--{name} {count_wanted(value, MOST[name])}")
    if request.on_cluster:
        _check_cluster(request)
    else:
        _check_here(request)


def _check_cluster(request: SubmitRequest) -> None:
    for name in HERE_ONLY:
        if request.is_typed(name):
            value = getattr(request, name)
            shown = f"--{name}" if value is True else f"--{name} {value}"
            raise BadUsage(
                f"{shown}: that is for jobs that run here, and this one goes to cluster '{request.on_cluster}'.",
                hint="To run it here, add --cluster local",
            )


def _check_here(request: SubmitRequest) -> None:
    if request.is_typed("num_nodes"):
        raise BadUsage(
            f"--num_nodes {request.num_nodes}: a job that runs here has one node.",
            hint="Use --processes_per_node for several processes.",
        )


def settled(request: SubmitRequest) -> SubmitRequest:
    """The request without what does not count for it: settings of the other place, and of another environment than the
    one that was typed."""
    dropped = [*HERE_ONLY] if request.on_cluster else [*CLUSTER_ONLY, "num_nodes"]
    if request.on_cluster:
        dropped += _overridden(request)
    defaults = SubmitRequest(cwd=request.cwd)
    return replace(request, **{name: getattr(defaults, name) for name in dropped})


def _overridden(request: SubmitRequest) -> Sequence[str]:
    """Ways to an environment that stand in settings, where another one that excludes them was typed."""
    typed = [way for way in WAYS_TO_ENVIRONMENTS if any(map(request.is_typed, way))]
    dropped = [name for way in WAYS_TO_ENVIRONMENTS if typed and way not in typed for name in way]
    if request.is_typed("requirements") and not request.is_typed("conda_env"):
        dropped.append("conda_env")
    if request.is_typed("conda_env") and not request.is_typed("requirements"):
        dropped.append("requirements")
    return dropped


def place_remarks(request: SubmitRequest) -> list[str]:
    """What was asked for and has no meaning where the job runs, a sentence."""
    if request.on_cluster:
        return []
    idle = [f"--{name}" for name in CLUSTER_ONLY if request.is_typed(name)]
    idle += [f"num_nodes = {request.num_nodes}"] if request.num_nodes != 1 else []
    remarks = [f"Passed over, since the job runs here and not on a cluster: {', '.join(idle)}."] if idle else []
    uncopied = [f"--{name}" for name in ("ignored_folders", "include_secret") if request.is_typed(name)]
    if request.in_place and uncopied:
        remarks.append(f"Passed over, since the job runs in place and nothing is copied: {', '.join(uncopied)}.")
    if request.is_typed("distribution") and request.processes_per_node is None:
        remarks.append(
            "Passed over, since the job is one plain process: --distribution. Add --processes_per_node N to have ranks."
        )
    return remarks
