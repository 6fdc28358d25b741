"""`himl submit`: run a script, a module or a shell script as a job, here or on a cluster.

An option is added to OPTIONS once: help, settings in himl.toml, variables, completion and the field of the same name of
`SubmitRequest` follow from it. Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import Bundle, Option, OutputOptions, WorkspaceOptions, option, parse_list, parse_pairs
from himl_cli.commands.scripts import TYPED, ScriptCommand, print_misplaced, script_arguments, value_sources
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.services.submission.request import SubmitRequest

app = group()

OPTIONS: Mapping[str, Option] = {
    "module": option("A module, as python -m takes it.", "PACKAGE.MODULE", names=("-m",), panel="Arguments"),
    "command": option("A command line, of any program, in place of TARGET.", "LINE"),
    "cluster": option("Azure ML compute, or slurm:PARTITION; absent or 'local': here.", "NAME", panel="Where it runs"),
    "sbatch": option("An option of sbatch on Slurm, as in gres=gpu:2.", "K=V", many=True),
    "retries": option("Start a job here or on Slurm that failed again, so many times.", "N", 0),
    "record_in": option("Where a job that runs here is recorded: local or azure.", "WHERE"),
    "in_place": option("Run here without a snapshot, for a debugger.", default=False),
    "num_nodes": option("Machines of the cluster.", "N", 1),
    "processes_per_node": option("Processes (ranks) a machine.", "N", kind=int | None),
    "distribution": option("pytorch or mpi (default: pytorch for several processes a machine, else mpi).", "KIND"),
    "no_mpi_single_node": option("Send a job of one process as a plain one, not as MPI.", default=False),
    "shm_size": option("Shared memory on a cluster.", "SIZE", "100g"),
    "instance_type": option("Instance type of a Kubernetes or serverless compute.", "NAME", parse=non_blank),
    "job_tier": option(
        "Of a serverless compute: spot (cheaper, may be preempted), basic, standard or premium.", "TIER"
    ),
    "docker_args": option("Arguments of 'docker run' on a cluster.", "ARGS", many=True),
    "identity": option("user or managed: as whom it signs in to Azure.", "WHOSE"),
    "max_run_duration": option("End the job after that time: 30s, 30m, 2h, 1.5d.", "TIME"),
    "vscode": option("Let VS Code connect to the job on a cluster.", default=False),
    "jupyter": option("Run JupyterLab beside the job on a cluster.", default=False),
    "ssh_key": option("Let the owner of this public key sign in to the job by SSH.", "FILE", parse=non_blank),
    "create_cluster": option("Make a pipeline's cluster where it is missing (size: .env).", default=False),
    "python": option("The interpreter here (default: the active environment's).", "PATH"),
    "snapshot_root": option("The folder that is sent (default: the project's).", "DIR", panel="What is sent"),
    "ignored_folders": option("Folders to leave out as well.", "DIR,...", many=True, parse=parse_list),
    "include_secret": option(
        "Send these files, which may hold secrets, on purpose.", "GLOB,...", many=True, parse=parse_list
    ),
    "conda_env": option(
        "Conda files (default: the nearest environment.yml, pylock.toml or uv.lock).",
        "FILE,...",
        many=True,
        parse=parse_list,
        panel="Environment (of a cluster, except --env_var)",
    ),
    "requirements": option("A pip requirements file, in place of a conda file.", "FILE"),
    "lock": option("A pylock.toml or uv.lock, in place of a conda file.", "FILE[EXTRA,...]", parse=non_blank),
    "environment": option("A registered environment, unchanged; also azureml://registries/...", "NAME[:V]"),
    "docker_image": option("Docker image (default: one of Azure ML).", "IMAGE"),
    "build_context": option("The folder to build the Docker image from.", "DIR", parse=non_blank),
    "dockerfile": option("The Dockerfile (default: the build context's Dockerfile).", "FILE", parse=non_blank),
    "pip_extra_index_url": option("One more index for pip.", "URL"),
    "private_wheel": option("A wheel to install as well.", "FILE"),
    "env_var": option("A variable of the job.", "K=V", many=True, parse=parse_pairs),
    "experiment": option(
        "Experiment (default: HIML_EXPERIMENT_NAME, else the script's name).",
        "NAME",
        envvar=["HIML_SUBMIT_EXPERIMENT", "HIML_EXPERIMENT_NAME"],
        show_envvar=False,
        panel="Naming",
    ),
    "experiment_from_branch": option("Name the experiment after the git branch.", default=False),
    "display_name": option("The run's name for people.", "TEXT", ""),
    "description": option("What the run is about.", "TEXT", ""),
    "tag": option("A tag of the run.", "K=V", many=True, parse=parse_pairs),
    "build_branch": option("Branch.", "TEXT", panel="Facts for tags (default: from git)"),
    "build_source_id": option("Commit.", "TEXT"),
    "build_source_author": option("Author of the commit.", "TEXT"),
    "build_source_message": option("Message of the commit.", "TEXT"),
    "build_source_repository": option("Repository.", "TEXT"),
    "build_number": option("Number of the build.", "TEXT"),
    "build_user": option("Who started the build.", "TEXT"),
    "build_user_email": option("Their e-mail address.", "TEXT"),
    "input": option(
        "Data it reads: [KEY=]NAME[:VERSION][,OPTION=...]. Options: datastore, mode (download, mount), target, local.",
        "SPEC",
        many=True,
        panel="Data",
    ),
    "output": option(
        "Data it writes: [KEY=]NAME[,OPTION=...]. Options: datastore, mode (mount, upload), overwrite (true, false), "
        "local.",
        "SPEC",
        many=True,
    ),
    "keep": option(
        "Keep new files outside outputs/ and logs/ as well, as outputs, by globs as of 'himl download --include GLOB'.",
        "GLOB,...",
        many=True,
        parse=parse_list,
    ),
    "no_system_metrics": option("Record no use of CPU, memory and GPUs of a job here or on Slurm.", default=False),
    "default_datastore": option("Datastore of inputs and outputs that name none.", "NAME"),
    "checkpoint": option(
        "Start with this in outputs/checkpoints: a file, a folder, an https address, RUN (its last checkpoint), "
        "RUN:FILE or RUN:FOLDER/.",
        "SOURCE",
    ),
    "sweep": option(
        "Values of --NAME: 0.1,0.01 or uniform(a,b), loguniform(a,b) (e^a to e^b), normal(mu,sigma), randint(n).",
        "NAME=SPEC",
        many=True,
        panel="Many runs",
    ),
    "sampling": option(
        "grid, random, random(seed=7) or bayesian (default: grid where all are lists, else random).", "HOW"
    ),
    "max_trials": option("Trials in all (default: the whole grid); random and bayesian need it.", "N", kind=int | None),
    "max_concurrent": option("Trials at a time (default: here 1, on a cluster all).", "N", kind=int | None),
    "primary_metric": option("The metric that trials are compared by.", "NAME", "val/loss"),
    "goal": option("minimize or maximize the primary metric.", "GOAL", "minimize"),
    "early_stop": option(
        "Stop poor trials: bandit(slack_factor=0.1), median, truncation(truncation_percentage=20).", "POLICY"
    ),
    "crossval": option("Run N splits: --crossval_index 0 to N-1.", "N", kind=int | None),
    "crossval_arg": option("Another name for --crossval_index.", "NAME", "crossval_index"),
    "crossval_count_arg": option("Pass N as well, by this argument.", "NAME"),
    "different_seeds": option("Run N seeds: --random_seed 0 to N-1.", "N", kind=int | None),
    "seed_arg": option("Another name for --random_seed.", "NAME", "random_seed"),
    "resume": option("Go on with a run that is kept here: do what is missing, or try again; needs no TARGET.", "RUN"),
    "wait": option(
        "Wait for the end (default: here yes, on a cluster no).",
        names=("--wait/--no_wait",),
        kind=bool | None,
        show_default=False,
        panel="After",
    ),
    "follow": option("Wait, and show the output as it comes (always so here).", default=False),
    "notify": option("Post how the run ended to this webhook; better set in himl.private.toml.", "URL"),
    "notify_format": option("json, slack or teams (default: that of the URL's host, else json).", "FORM"),
    "dry_run": option("Print the job as Azure ML YAML, or for Slurm as batch script; send nothing.", default=False),
    "show_settings": option("Show each option's value and where it came from; run nothing.", default=False),
    "sdk": option("v2, or v1: by the deprecated azureml-core.", "SDK", "v2"),
}
"""All of them, in the order of help."""


class SubmitOptions(Bundle):
    """Their values; only those that are no fields of the request are read by name."""

    create_cluster: bool
    resume: str | None
    wait: bool | None
    follow: bool
    dry_run: bool
    show_settings: bool

    def request(
        self, cwd: Path, target: str | None, arguments: Sequence[str], sources: Mapping[str, str]
    ) -> SubmitRequest:
        """All that a request has a field for; *sources* say where each value came from."""
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


@command(app, "submit", cls=ScriptCommand)
def submit(
    ctx: typer.Context,
    options: SubmitOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="A .py or .sh script, a pipeline .json, or an Azure ML job .yml.", show_default=False
        ),
    ] = None,
) -> Any:
    """Run a script as a job: a snapshot of its project, recorded with its log, outputs and metrics.

    Here, or with --cluster on Azure ML or a site's Slurm. Arguments of the script stand after --. With --sweep,
    --crossval or --different_seeds it is many runs, each with values of its own.

    \b
      himl submit train.py -- --epochs 5
      himl submit train.py --cluster gpu --follow
      himl submit train.py --cluster gpu --dry_run > job.yml
      himl submit -m lab.train --cluster gpu --num_nodes 2 --processes_per_node 4
      himl submit train.py --input mnist,local=data/mnist --tag team=blue
      himl submit train.py --sweep lr=0.1,0.01 --max_concurrent 2
      himl submit train.py --crossval 5 --cluster gpu
      himl submit --command "python -V && python train.py"
      himl submit --resume latest
    """
    sources = value_sources(ctx)
    if options.show_settings:
        from himl_cli.commands.submit_job import show_settings

        show_settings(workspace_opts, output_opts, ctx.params, sources)
        return None
    print_misplaced(ctx, output_opts)
    request = options.request(Path.cwd(), target, script_arguments(ctx), sources)
    from himl_cli.commands import submit_job
    from himl_cli.services.submission.request import is_file

    flags = (options.create_cluster, options.wait, options.follow, options.dry_run)
    call = submit_job.Submission(workspace_opts, output_opts, request, sources, *flags)
    if options.resume is not None:
        return submit_job.resume(call, options.resume)
    return submit_job.submit_file(call) if is_file(target) else submit_job.submit_script(call)
