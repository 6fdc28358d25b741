"""Targets of `himl submit` that are no script but tell of a whole job: a pipeline's JSON file, a job in Azure ML's
YAML."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.services.secret_files import YAML_ENDINGS
from himl_cli.services.submission.request import SubmitRequest

PIPELINE_ENDING = ".json"
OPTIONS = {"env_vars": "env_var", "tags": "tag", "inputs": "input", "outputs": "output"}
"""Fields of a request that are called otherwise than their options."""
NO_OPTIONS = ("cwd", "target", "typed")
IN_PIPELINES = ("inputs", "outputs", "num_nodes", "processes_per_node", "distribution", "snapshot_root")
NOT_IN_YAML = (
    *("crossval", "crossval_arg", "crossval_count_arg", "different_seeds", "seed_arg", "checkpoint"),
    *("in_place", "record_in", "sdk", "no_mpi_single_node", "python", "default_datastore", "ignored_folders"),
)
"""What files of the one kind can say, and those of the other cannot."""


def is_file(target: str | None) -> bool:
    """Whether *target* names a file that tells of a whole job, by its ending."""
    return target is not None and target.lower().endswith((PIPELINE_ENDING, *YAML_ENDINGS))


def is_pipeline(target: str) -> bool:
    """Whether *target* names a pipeline's JSON file."""
    return target.lower().endswith(PIPELINE_ENDING)


def target_path(request: SubmitRequest) -> Path:
    """The file that is the target. Raises BadUsage where there is none, with one that may have been meant."""
    shown = str(request.target)
    path = request.cwd / shown
    if path.is_file():
        return path.absolute()
    if path.is_dir():
        raise BadUsage(f"'{shown}' is a folder, not a file.")
    names = [each.name for each in path.parent.iterdir() if is_file(each.name)] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1)
    raise BadUsage(
        f"There is no file '{shown}'.",
        hint=f"Did you mean '{near[0]}'?" if near else "Check the path; it is relative to the current folder.",
    )


def check_options(request: SubmitRequest, counting: frozenset[str], what: str) -> None:
    """Raises BadUsage for an option that was typed and does not count for *what* (`a pipeline file`): those in
    *counting* do."""
    if request.module:
        raise BadUsage(
            "A file and -m MODULE were both given.", hint="himl submit FILE, or himl submit -m package.module"
        )
    if request.arguments:
        raise BadUsage(
            f"Arguments stand behind --, and {what} holds its own.", hint=f"Write them into '{request.target}'."
        )
    for each in fields(SubmitRequest):
        if each.name not in counting and each.name not in NO_OPTIONS and request.is_typed(each.name):
            option = f"--{OPTIONS.get(each.name, each.name)}"
            can_say = each.name in IN_PIPELINES if is_pipeline(str(request.target)) else each.name not in NOT_IN_YAML
            if not can_say:
                raise BadUsage(f"{option} does not count for {what}.", hint="Leave it out.")
            raise BadUsage(
                f"{option} does not count for {what}, which says that itself.",
                hint=f"Write it into '{request.target}'.",
            )


def file_remarks(request: SubmitRequest, what: str) -> list[str]:
    """What settings say for all jobs and has no meaning for *what*, a sentence."""
    if not request.is_told_to_azure:
        return []
    return [f"Passed over: record_in = azure. {what[0].upper()}{what[1:]} that runs here is recorded here alone."]
