"""Submit the script that calls `submit_to_azure_if_needed` to Azure ML. The functions that read its
arguments share no code with each other."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.api.exceptions import NoFile
from himl_cli.api.hyperdrive import sweep_of_args, sweep_of_config, trial_seconds_of
from himl_cli.api.transfer import PathLike
from himl_cli.core.errors import BadUsage, Interrupted
from himl_cli.core.jobs import HERE
from himl_cli.core.ranks import local_rank
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run
from himl_cli.core.settings import find_upward
from himl_cli.core.sweeps import SweepSpec
from himl_cli.core.text import parse_duration
from himl_cli.core.workspaces import HOW_TO_CONFIGURE
from himl_cli.render.job_views import print_ended, print_prepared, print_sent
from himl_cli.render.output import Output
from himl_cli.render.progress import Watcher
from himl_cli.services.runs.follow import naming_started, watching
from himl_cli.services.runs.outcome import await_outcome
from himl_cli.services.submission.environment import CONDA_NAMES
from himl_cli.services.submission.prepare import check_root, prepare_job
from himl_cli.services.submission.request import SubmitRequest, job_words, shorten_tags
from himl_cli.services.submission.start import start_and_note, submit_prepared
from himl_cli.workspaces.base import JobRunner, Workspace
from himl_cli.workspaces.resolve import open_for_jobs

log = logging.getLogger(__name__)


def sweep_of(config: Any, arguments: Mapping[str, Any] | None) -> SweepSpec | None:
    """The sweep of *config* or *arguments*, None without both. Raises BadUsage for an unsupported one."""
    if config is not None and arguments is not None:
        raise BadUsage(
            "hyperdrive_config and hyperparam_args cannot be combined.",
            hint="Omit one of them.",
        )
    if arguments is not None:
        return sweep_of_args(arguments)
    return None if config is None else sweep_of_config(config)


def trial_arguments(sweep: SweepSpec | None, prefix: str) -> list[str]:
    """The arguments with a trial's values, if they differ from himl's `--NAME`."""
    if sweep is None or prefix == "--":
        return []
    return [f"{prefix}{name}=${{{{search_space.{name}}}}}" for name in sweep.space]


def end_other_ranks() -> None:
    """End this process if a launcher started it as another rank than the first, as only that one submits."""
    me = local_rank(os.environ)
    if me is not None and me.rank > 0:
        sys.exit(0)


def duration_of(longest: str, sweep_arguments: Mapping[str, Any] | None) -> str | None:
    """The maximum duration of the job, or of each trial. Raises BadUsage for two limits that differ."""
    seconds = None if sweep_arguments is None else trial_seconds_of(sweep_arguments)
    if seconds is None:
        return longest or None
    if longest and parse_duration(longest, "--max_run_duration") != seconds:
        raise BadUsage(
            "max_run_duration and hyperparam_args' trial_timeout cannot differ.",
            hint="Omit one of them.",
        )
    return f"{seconds}s"


def entry_of(
    script: PathLike | None, command: PathLike | None, root: Path, cwd: Path, *, checks_root: bool
) -> dict[str, Any]:
    """The command, the script, or the module of a job (`-m NAME`, or the one that `python -m` runs from *root*)."""
    path, module = None, None
    if command is not None:
        pass
    elif script is not None and str(script).startswith("-m "):
        module = str(script)[3:].strip()
    elif script is not None:
        path = root / script if (root / script).exists() else cwd / script
    else:
        running = sys.modules["__main__"]
        file, spec = getattr(running, "__file__", None), getattr(running, "__spec__", None)
        if file is None:
            raise BadUsage("There is no running script to submit.", hint="Name one with entry_script.")
        path = Path(file).absolute()
        if spec is not None and Path(sys.argv[0]).absolute() == path:
            name = spec.name.removesuffix(".__main__")
            source = root.resolve().joinpath(*name.split("."))
            if Path(file).resolve() in (source.with_name(f"{source.name}.py"), source / "__main__.py"):
                path, module = None, name
    # The relative path becomes a tag of the run.
    target = None if path is None else str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)
    if checks_root:
        check_root(root, cwd / target if target else None)
    return {"target": target, "module": module, "command": None if command is None else str(command)}


def environment_of(
    name: str,
    build_context: Any,
    conda_file: PathLike | None,
    image: str,
    has_default_image: bool,
    index_url: str,
    wheel: PathLike | None,
) -> dict[str, Any]:
    """The options for the job's environment: a registered one, or else files, which define it, such as the nearest
    Conda file in the current folder and above, wherever the script is. Raises BadUsage, and NoFile for a
    missing file."""
    more = {"pip_extra_index_url": index_url or None, "private_wheel": str(wheel) if wheel else None}
    cwd, whole = Path.cwd(), "aml_environment_name" if name else "build_context"
    unused = [argument for argument, value in more.items() if value] if name or build_context is not None else []
    if unused:
        log.warning("himl ignores %s, as %s defines the environment.", " and ".join(unused), whole)
    if name:
        if build_context is not None or conda_file:
            other = "conda_environment_file" if conda_file else "build_context"
            raise BadUsage(f"aml_environment_name and {other} cannot be combined.", hint="Omit one of them.")
        return {"environment": name}
    if build_context is not None:
        if conda_file:
            raise BadUsage("build_context and conda_environment_file cannot be combined.", hint="Omit one of them.")
        # The objects of the two SDKs have different attribute names.
        folder = getattr(build_context, "path", None) or getattr(build_context, "location", None) or build_context
        if not isinstance(folder, (str, os.PathLike)):
            kind = type(build_context).__qualname__
            raise BadUsage(f"build_context must be a folder or a BuildContext, not {kind}.")
        return {"build_context": str(folder), "dockerfile": getattr(build_context, "dockerfile_path", None)}
    for argument, given in (("conda_environment_file", conda_file), ("private_pip_wheel_path", more["private_wheel"])):
        if given and not (cwd / given).is_file():
            raise NoFile(f"{argument} '{given}' does not exist.")
    nearest = filter(Path.is_file, find_upward((cwd, *cwd.parents), CONDA_NAMES))
    found = cwd / conda_file if conda_file else next(nearest, None)
    has_image = bool(image) and (found is not None or not has_default_image)
    return {"conda_env": (str(found),) if found else (), "docker_image": image if has_image else None, **more}


def with_tags(request: SubmitRequest, tags: Mapping[str, str] | None) -> SubmitRequest:
    """*request* with *tags*, or with hi-ml's tag for None: the script with its arguments, without secrets."""
    if tags is None:
        target, arguments = job_words(request)
        words = [*([] if request.command else target), *mask_arguments(arguments)]
        return replace(request, tags=shorten_tags({"commandline_args": shlex.join(words)} if words else {}))
    return replace(request, tags={key: str(value) for key, value in tags.items()})


def run_job(
    request: SubmitRequest,
    workspace: Workspace,
    after_submission: Callable[[str], None] = lambda run_id: None,
    *,
    waits: bool,
    follows: bool,
) -> Run:
    """Submit the job, print its location, call *after_submission* with the run's id, wait if requested, and return the
    run. Raises HimlError. himl then submitted nothing, or the message names the run."""
    if not isinstance(workspace, JobRunner):
        raise BadUsage(f"{workspace.label} cannot run jobs.")
    output, job = Output(), prepare_job(request)
    print_prepared(output, job.remarks, job.report)
    with Watcher(output) as shown, naming_started(shown) as notify:
        run = start_and_note(partial(submit_prepared, workspace, job), Path.cwd(), notify)
        with watching(run.id):
            shown.close()
            print_sent(output, run, waits=waits, follows=follows)
            after_submission(run.id)
            if not waits:
                return run
            with Watcher(output) as notify, output.job_output(run) as write:
                return await_outcome(
                    workspace,
                    run,
                    notify,
                    partial(print_ended, output),
                    write=write if follows else None,
                    spec=job.spec,
                    webhook=job.spec.webhook,
                    cwd=request.cwd,
                )


def submit(
    request: SubmitRequest,
    workspace_of: Callable[[], Workspace | None],
    after_submission: Callable[..., Any] | None,
    ml_client: Any,
    *,
    waits: bool,
    follows: bool,
    exits: bool,
) -> Any:
    """Submit the job, print its location, wait if requested, and exit with code 0, or return the SDK's job or run.

    Raises HimlError. himl then submitted nothing, or the message names the run.
    """
    if request.cluster in ("", HERE):
        raise BadUsage(
            "compute_cluster_name must be an Azure ML cluster.",
            hint="To run the script locally, omit --azureml.",
        )
    if request.sdk == "v1":
        from himl_cli.workspaces.azure.workspace import sdk_v1

        sdk_v1()  # raises
    is_queued = request.queue is not None
    if is_queued:
        request = request.without("vscode", "no_mpi_single_node")  # hi-ml's defaults, so without a notice
    if is_queued and after_submission is not None:
        raise BadUsage("after_submission needs an Azure ML job, but this job is a local one.", hint="Omit it.")
    workspace = open_for_jobs(None, None, start=request.cwd) if is_queued else workspace_of()
    if not isinstance(workspace, JobRunner):
        raise BadUsage(
            "No Azure ML workspace is given or configured.",
            hint=f"{HOW_TO_CONFIGURE} Or pass workspace_config_file.",
        )

    def sdk_objects(run_id: str) -> tuple[Any, ...]:
        from himl_cli.workspaces.azure.workspace import azure_only

        found = azure_only(workspace, "The SDK has the jobs of Azure ML workspaces only.")
        return found.sdk_objects(run_id, request.sdk)

    def tell_script(run_id: str) -> None:
        if after_submission is not None:
            sent, *client = sdk_objects(run_id)
            after_submission(sent, *([ml_client] if client and ml_client is not None else client))

    try:
        run = run_job(request, workspace, tell_script, waits=waits, follows=follows)
        if not exits and not is_queued:
            return sdk_objects(run.id)[0]
    except Interrupted as err:
        Output().notice(f"{err} {err.hint}".strip())
        sys.exit(err.exit_code)
    finally:
        if exits:  # otherwise a run of azureml-core still uses it
            workspace.close()
    sys.exit(0)
