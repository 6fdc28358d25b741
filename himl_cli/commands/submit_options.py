"""The options of `himl submit`.

OPTIONS declares each option once. Help, settings in himl.toml, environment variables, completion and the field of
`SubmitRequest` with the same name follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands.options import Bundle, Option, WorkspaceOptions, option, parse_list, parse_pairs
from himl_cli.commands.scripts import (
    COMMON,
    TYPED,
)
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank
from himl_cli.workspaces.remote.address import PREFIX, is_remote

if TYPE_CHECKING:
    from himl_cli.services.submission.request import SubmitRequest

OPTIONS: Mapping[str, Option] = {
    "module": option("Run a module, like python -m.", "PACKAGE.MODULE", names=("-m",), panel="Arguments"),
    "command": option("Run a command line in place of TARGET.", "LINE"),
    "set": option("Change a job's YAML, such as inputs.lr=0.1.", "K=V", many=True, parse=parse_pairs),
    "cluster": option("local (default), Azure ML compute, slurm:PARTITION, ssh:HOST.", "NAME", panel=COMMON),
    "follow": option("Wait and print the log (always for local jobs).", default=False, names=("--follow", "-f")),
    "wait": option(
        "Wait for the end (default: for local jobs).",
        names=("--wait/--no_wait", " /-d"),
        kind=bool | None,
        show_default=False,
    ),
    "experiment": option(
        "Experiment (default: HIML_EXPERIMENT_NAME, else the script's name).",
        "NAME",
        envvar=["HIML_SUBMIT_EXPERIMENT", "HIML_EXPERIMENT_NAME"],
        show_envvar=False,
    ),
    "display_name": option("Display name of the run.", "TEXT", ""),
    "tag": option("Tag of the run.", "K=V", many=True, parse=parse_pairs, names=("--tag", "-t")),
    "env_var": option(
        "Environment variable of the job.", "K=V", many=True, parse=parse_pairs, names=("--env_var", "-e")
    ),
    "input": option(
        "Input data: [KEY=]NAME[:VERSION][,OPTION=...]. Options: datastore, mode (download, mount), target, local.",
        "SPEC",
        many=True,
    ),
    "gpus": option("GPUs per node for a local or Slurm job, which waits until they are free.", "N", kind=float | None),
    "processes_per_node": option("Number of processes (ranks) per node (default: 1).", "N", kind=int | None),
    "max_run_duration": option("Maximum duration, such as 30m, 2h (default: none).", "TIME"),
    "sweep": option(
        "Values of --NAME, such as 0.1,0.01 or uniform(a,b). Also loguniform(a,b) (e^a to e^b), normal(mu,sigma) and "
        "randint(n). For options without a value or with several: switch(true,false), words(1 2,3).",
        "NAME=SPEC",
        many=True,
    ),
    "max_concurrent": option(
        "Parallel trials (default: 1; with --gpus, as many as fit; all on a cluster).", "N", kind=int | None
    ),
    "resume": option("Resume a local run, or its missing trials or steps (no TARGET).", "RUN"),
    "dry_run": option("Print the job as YAML or Slurm script, without submitting it.", default=False),
    "sbatch": option("Option of sbatch on Slurm, such as gres=gpu:2.", "K=V", many=True, panel="Compute"),
    "after": option("Start the Slurm job once this run has completed.", "RUN", many=True),
    "grace": option("Time from SIGTERM to the limit of a Slurm job (default: 1m).", "TIME"),
    "retries": option("Restart a failed local or Slurm job up to N times.", "N", 0),
    "record_in": option("Workspace for a local job: local or azure (default: local).", "WHERE"),
    "in_place": option("Run locally without a snapshot, for debugging.", default=False),
    "tty": option("Run a single local job in a terminal, for breakpoint() and bars.", default=False),
    "queue": option("Wait for a slot of this machine, so that local jobs run one after another.", default=False),
    "num_nodes": option("Number of nodes.", "N", 1),
    "distribution": option("pytorch or mpi (default: pytorch for several processes per node, else mpi).", "KIND"),
    "no_mpi_single_node": option("Submit a single-process job without MPI.", default=False),
    "shm_size": option("Shared memory on a cluster.", "SIZE", "100g"),
    "instance_type": option("Instance type, for Kubernetes or serverless.", "NAME", parse=non_blank),
    "job_tier": option("Serverless tier: spot (cheaper, preemptible), basic, standard or premium.", "TIER"),
    "docker_args": option("Arguments for 'docker run' on a cluster.", "ARGS", many=True),
    "identity": option("Azure identity of the job: user or managed.", "KIND"),
    "vscode": option("Allow VS Code to connect (on a cluster).", default=False),
    "jupyter": option("Run JupyterLab with the job (on a cluster).", default=False),
    "ssh_key": option("Allow SSH to the job with this public key.", "FILE", parse=non_blank),
    "create_cluster": option("Create a pipeline's missing cluster, as in .env.", default=False),
    "python": option("Python for local jobs (default: the active one).", "PATH"),
    "snapshot_root": option("Root folder (default: the project's).", "DIR", panel="Snapshot"),
    "ignored_folders": option("More folders to exclude from the snapshot.", "DIR,...", many=True, parse=parse_list),
    "include_secret": option("Include files that may hold secrets.", "GLOB,...", many=True, parse=parse_list),
    "conda_env": option(
        "Conda files (default: the nearest environment.yml, pylock.toml or uv.lock).",
        "FILE,...",
        many=True,
        parse=parse_list,
        panel="Environment (on a cluster)",
    ),
    "requirements": option("pip requirements file, in place of a Conda file.", "FILE"),
    "lock": option("pylock.toml or uv.lock, in place of Conda.", "FILE[EXTRA,...]", parse=non_blank),
    "environment": option("Registered environment, or azureml://registries/...", "NAME[:V]"),
    "docker_image": option("Docker image (default: an Azure ML image).", "IMAGE"),
    "build_context": option("Folder to build the Docker image from.", "DIR", parse=non_blank),
    "dockerfile": option("Dockerfile (default: from the build context).", "FILE", parse=non_blank),
    "pip_extra_index_url": option("Additional package index for pip.", "URL"),
    "private_wheel": option("Additional wheel to install.", "FILE"),
    "experiment_from_branch": option("Name the experiment after the git branch.", default=False, panel="Naming"),
    "description": option("Description of the run.", "TEXT", ""),
    "build_branch": option("Git branch.", "TEXT", panel="Build tags (default: from git)"),
    "build_source_id": option("Commit id.", "TEXT"),
    "build_source_author": option("Author of the commit.", "TEXT"),
    "build_source_message": option("Message of the commit.", "TEXT"),
    "build_source_repository": option("Repository URL.", "TEXT"),
    "build_number": option("Build number.", "TEXT"),
    "build_user": option("User who started the build.", "TEXT"),
    "build_user_email": option("Email address of that user.", "TEXT"),
    "output": option(
        "Output data: [KEY=]NAME[,OPTION=...]. Options: datastore, mode (mount, upload), overwrite (true, false), "
        "local.",
        "SPEC",
        many=True,
        panel="Data",
    ),
    "keep": option(
        "New files to save besides outputs/ and logs/, such as 'models/**'.",
        "GLOB,...",
        many=True,
        parse=parse_list,
    ),
    "no_system_metrics": option("Do not record CPU, memory and GPU use of local and Slurm jobs.", default=False),
    "default_datastore": option("Datastore for inputs and outputs without one.", "NAME"),
    "checkpoint": option(
        "Checkpoint to copy to outputs/checkpoints before the start. A path, an https URL, RUN (its last one), "
        "RUN:FILE or RUN:FOLDER/.",
        "SOURCE",
    ),
    "sampling": option(
        "grid, random, random(seed=7) or bayesian (default: grid for lists, else random).",
        "HOW",
        panel="Sweeps and cross-validation",
    ),
    "max_trials": option(
        "Number of trials (default: the whole grid). Required for other samplings.", "N", kind=int | None
    ),
    "max_failures": option(
        "Start no more trials if the first N to end all fail (default: 3). 0: never stop.", "N", kind=int | None
    ),
    "primary_metric": option("Metric that ranks trials, or runs in a list.", "NAME", "val/loss"),
    "goal": option("minimize or maximize the primary metric.", "GOAL", "minimize"),
    "early_stop": option(
        "Stop poor trials. Use median, bandit(slack_factor=0.1) or truncation(truncation_percentage=20).",
        "POLICY",
    ),
    "crossval": option("Run N splits, with --crossval_index 0 to N-1.", "N", kind=int | None),
    "crossval_arg": option("Argument for the split's index.", "NAME", "crossval_index"),
    "crossval_count_arg": option("Argument for the number of splits.", "NAME"),
    "different_seeds": option("Run N seeds, with --random_seed 0 to N-1.", "N", kind=int | None),
    "seed_arg": option("Argument for the seed.", "NAME", "random_seed"),
    "from_run": option("Submit a run's job again (no TARGET).", "RUN", names=("--from",), panel="Again"),
    "only_args": option("With --from, replace all arguments of the script.", default=False),
    "same_environment": option("With --from, require the packages of the run.", default=False),
    "new_code": option("With --resume, run the project's present code.", default=False),
    "notify": option("Webhook to notify at the end (better set in himl.private.toml).", "URL", panel="Progress"),
    "notify_format": option("json, slack or teams (default: by the URL's host, else json).", "FORM"),
    "show_settings": option(
        "Show the value and source of each option, and run nothing.", default=False, panel="Preview"
    ),
    "sdk": option("Azure ML SDK: v2 or v1 (deprecated).", "SDK", "v2", panel="Compute"),
}
"""All options, in the order of help."""


class SubmitOptions(Bundle):
    """The values of OPTIONS. The annotated ones are no fields of the request."""

    create_cluster: bool
    resume: str | None
    new_code: bool
    from_run: str | None
    only_args: bool
    same_environment: bool
    wait: bool | None
    follow: bool
    dry_run: bool
    show_settings: bool

    def request(
        self, cwd: Path, target: str | None, arguments: Sequence[str], sources: Mapping[str, str]
    ) -> SubmitRequest:
        """Build the request. *sources* maps each option to the source of its value."""
        from dataclasses import fields

        from himl_cli.services.submission.request import REQUEST_FIELDS, SubmitRequest

        values = {REQUEST_FIELDS.get(name, name): value for name, value in vars(self).items()}
        known = {each.name for each in fields(SubmitRequest)}
        others = {name: value for name, value in values.items() if name not in known and value is not None}
        return SubmitRequest(
            cwd=cwd,
            target=target,
            arguments=arguments,
            build={name: value for name, value in others.items() if name.startswith("build_")},
            typed=frozenset(REQUEST_FIELDS.get(name, name) for name, source in sources.items() if source == TYPED),
            **{name: value for name, value in values.items() if name in known},
        )


for _name, _option in OPTIONS.items():
    setattr(SubmitOptions, _name, _option)


def by_ssh(request: SubmitRequest, workspace_opts: WorkspaceOptions) -> tuple[SubmitRequest, WorkspaceOptions]:
    """A job for `--cluster ssh:NAME`, or for a Slurm behind a login node, as one in the workspace of that machine.
    Raises BadUsage for options that such a job does not take."""
    from himl_cli.core.engines import SLURM
    from himl_cli.core.jobs import HERE

    if is_remote(request.cluster or ""):
        if workspace_opts.names != (None, None):
            hint = "Name the folder there: --cluster ssh:HOST:FOLDER"
            raise BadUsage(f"--cluster {request.cluster} and --workspace cannot be combined.", hint=hint)
        workspace_opts = WorkspaceOptions(workspace=request.cluster)
        request = replace(request, cluster=HERE)
    elif request.engine == SLURM and workspace_opts.names == (None, None):
        from himl_cli.services.submission.engine_options import login_host

        if host := login_host(str(request.queue and request.queue[1]), request.cwd):
            workspace_opts = WorkspaceOptions(workspace=f"{PREFIX}{host}")
    if is_remote(workspace_opts.workspace or ""):
        if request.is_mirrored:
            raise BadUsage("--record_in azure cannot be used on another machine.", hint="Omit it.")
        if request.is_typed("python"):
            hint = "Name the Python there in the settings: python in the table [remote.HOST]."
            raise BadUsage("--python names a Python of this machine.", hint=hint)
    return request, workspace_opts
