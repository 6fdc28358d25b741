"""The options of `himl submit`.

An option is added here once: help, settings in himl.toml, variables, completion and the field of the same name of
`SubmitRequest` follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.commands.options import Bundle, option, parse_list, parse_pairs
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.services.submission.request import SubmitRequest

TYPED = "command line"
BUILD = "build_"
"""How options begin that are together a request's `build`; `build_context` is none of them."""

_target: Callable[..., Any] = partial(option, panel="Arguments")
_where: Callable[..., Any] = partial(option, panel="Where it runs")
_sent: Callable[..., Any] = partial(option, panel="What is sent")
_environment: Callable[..., Any] = partial(option, panel="Environment (of a cluster, except --env_var)")
_naming: Callable[..., Any] = partial(option, panel="Naming")
_build: Callable[..., Any] = partial(option, metavar="TEXT", panel="Facts for tags (default: from git)")
_data: Callable[..., Any] = partial(option, panel="Data")
_many: Callable[..., Any] = partial(option, panel="Many runs")
_after: Callable[..., Any] = partial(option, panel="After")


class SubmitOptions(Bundle):
    """All of them, in the order of help."""

    module: str | None = _target("A module, as python -m takes it.", "PACKAGE.MODULE", names=("-m",))
    command: str | None = _target("A command line, of any program, in place of TARGET.", "LINE")

    cluster: str | None = _where("Azure ML compute; absent or 'local': here.", "NAME")
    record_in: str | None = _where("Where a job that runs here is recorded: local or azure.", "WHERE")
    in_place: bool = _where("Run here without a snapshot, for a debugger.", default=False)
    num_nodes: int = _where("Machines of the cluster.", "N", 1)
    processes_per_node: int | None = _where("Processes (ranks) a machine.", "N", kind=int | None)
    distribution: str | None = _where(
        "pytorch or mpi (default: pytorch for several processes a machine, else mpi).", "KIND"
    )
    no_mpi_single_node: bool = _where("Send a job of one process as a plain one, not as MPI.", default=False)
    shm_size: str = _where("Shared memory on a cluster.", "SIZE", "100g")
    instance_type: str | None = _where("Instance type of a Kubernetes or serverless compute.", "NAME", parse=non_blank)
    job_tier: str | None = _where(
        "Of a serverless compute: spot (cheaper, may be preempted), basic, standard or premium.", "TIER"
    )
    docker_args: Sequence[str] = _where("Arguments of 'docker run' on a cluster.", "ARGS", many=True)
    identity: str | None = _where("user or managed: as whom it signs in to Azure.", "WHOSE")
    max_run_duration: str | None = _where("End the job after that time: 30s, 30m, 2h, 1.5d.", "TIME")
    vscode: bool = _where("Let VS Code connect to the job on a cluster.", default=False)
    jupyter: bool = _where("Run JupyterLab beside the job on a cluster.", default=False)
    ssh_key: str | None = _where("Let the owner of this public key sign in to the job by SSH.", "FILE", parse=non_blank)
    create_cluster: bool = _where("Make a pipeline's cluster where it is missing (size: .env).", default=False)
    python: str | None = _where("The interpreter here (default: the active environment's).", "PATH")

    snapshot_root: str | None = _sent("The folder that is sent (default: the project's).", "DIR")
    ignored_folders: Sequence[str] = _sent("Folders to leave out as well.", "DIR,...", many=True, parse=parse_list)
    include_secret: Sequence[str] = _sent(
        "Send these files, which may hold secrets, on purpose.", "GLOB,...", many=True, parse=parse_list
    )

    conda_env: Sequence[str] = _environment(
        "Conda files (default: the nearest environment.yml).", "FILE,...", many=True, parse=parse_list
    )
    requirements: str | None = _environment("A pip requirements file, in place of a conda file.", "FILE")
    environment: str | None = _environment(
        "A registered environment, unchanged; also azureml://registries/...", "NAME[:V]"
    )
    docker_image: str | None = _environment("Docker image (default: one of Azure ML).", "IMAGE")
    build_context: str | None = _environment("The folder to build the Docker image from.", "DIR", parse=non_blank)
    dockerfile: str | None = _environment(
        "The Dockerfile (default: the build context's Dockerfile).", "FILE", parse=non_blank
    )
    pip_extra_index_url: str | None = _environment("One more index for pip.", "URL")
    private_wheel: str | None = _environment("A wheel to install as well.", "FILE")
    env_var: Mapping[str, str] = _environment("A variable of the job.", "K=V", many=True, parse=parse_pairs)

    experiment: str | None = _naming(
        "Experiment (default: HIML_EXPERIMENT_NAME, else the script's name).",
        "NAME",
        envvar=["HIML_SUBMIT_EXPERIMENT", "HIML_EXPERIMENT_NAME"],
        show_envvar=False,
    )
    experiment_from_branch: bool = _naming("Name the experiment after the git branch.", default=False)
    display_name: str = _naming("The run's name for people.", "TEXT", "")
    description: str = _naming("What the run is about.", "TEXT", "")
    tag: Mapping[str, str] = _naming("A tag of the run.", "K=V", many=True, parse=parse_pairs)

    build_branch: str | None = _build("Branch.")
    build_source_id: str | None = _build("Commit.")
    build_source_author: str | None = _build("Author of the commit.")
    build_source_message: str | None = _build("Message of the commit.")
    build_source_repository: str | None = _build("Repository.")
    build_number: str | None = _build("Number of the build.")
    build_user: str | None = _build("Who started the build.")
    build_user_email: str | None = _build("Their e-mail address.")

    input: Sequence[str] = _data(
        "Data it reads: [KEY=]NAME[:VERSION][,OPTION=...]. Options: datastore, mode (download, mount), target, local.",
        "SPEC",
        many=True,
    )
    output: Sequence[str] = _data(
        "Data it writes: [KEY=]NAME[,OPTION=...]. Options: datastore, mode (mount, upload), overwrite (true, false), "
        "local.",
        "SPEC",
        many=True,
    )
    default_datastore: str | None = _data("Datastore of inputs and outputs that name none.", "NAME")
    checkpoint: str | None = _data(
        "Start with this in outputs/checkpoints: a file, a folder, an https address, RUN (its last checkpoint), "
        "RUN:FILE or RUN:FOLDER/.",
        "SOURCE",
    )

    sweep: Sequence[str] = _many(
        "Values of --NAME: 0.1,0.01 or uniform(a,b), loguniform(a,b) (e^a to e^b), normal(mu,sigma), randint(n).",
        "NAME=SPEC",
        many=True,
    )
    sampling: str | None = _many(
        "grid, random, random(seed=7) or bayesian (default: grid where all are lists, else random).", "HOW"
    )
    max_trials: int | None = _many(
        "Trials in all (default: the whole grid); random and bayesian need it.", "N", kind=int | None
    )
    max_concurrent: int | None = _many("Trials at a time (default: here 1, on a cluster all).", "N", kind=int | None)
    primary_metric: str = _many("The metric that trials are compared by.", "NAME", "val/loss")
    goal: str = _many("minimize or maximize the primary metric.", "GOAL", "minimize")
    early_stop: str | None = _many(
        "Stop poor trials: bandit(slack_factor=0.1), median, truncation(truncation_percentage=20).", "POLICY"
    )
    crossval: int | None = _many("Run N splits: --crossval_index 0 to N-1.", "N", kind=int | None)
    crossval_arg: str = _many("Another name for --crossval_index.", "NAME", "crossval_index")
    crossval_count_arg: str | None = _many("Pass N as well, by this argument.", "NAME")
    different_seeds: int | None = _many("Run N seeds: --random_seed 0 to N-1.", "N", kind=int | None)
    seed_arg: str = _many("Another name for --random_seed.", "NAME", "random_seed")
    resume: str | None = _many(
        "Go on with a run that is kept here: do what is missing, or try again; needs no TARGET.", "RUN"
    )

    wait: bool | None = _after(
        "Wait for the end (default: here yes, on a cluster no).",
        names=("--wait/--no_wait",),
        kind=bool | None,
        show_default=False,
    )
    follow: bool = _after("Wait, and show the output as it comes (always so here).", default=False)
    dry_run: bool = _after("Print the job as Azure ML YAML; send nothing.", default=False)
    show_settings: bool = _after("Show each option's value and where it came from; run nothing.", default=False)
    sdk: str = _after("v2, or v1: by the deprecated azureml-core.", "SDK", "v2")

    def waits(self, *, on_cluster: bool, sources: Mapping[str, str]) -> bool:
        """Whether to wait for the end: as was said, else here. What was typed wins over what is set. Raises BadUsage
        for both at once."""
        if self.follow and self.wait is False:
            typed = {name for name in ("follow", "wait") if sources.get(name) == TYPED}
            if len(typed) != 1:
                raise BadUsage(
                    "--follow and --no_wait exclude each other.", hint="Follow later: himl runs logs --follow RUN"
                )
            return typed == {"follow"}
        return (self.follow or not on_cluster) if self.wait is None else self.wait

    def request(
        self, cwd: Path, target: str | None, arguments: Sequence[str], sources: Mapping[str, str]
    ) -> SubmitRequest:
        """All that a request has a field for; *sources* say where each value came from."""
        from himl_cli.services.submission.request import REQUEST_FIELDS, SubmitRequest

        values = {REQUEST_FIELDS.get(name, name): value for name, value in vars(self).items()}
        build = {name: values.pop(name) for name in [*values] if name.startswith(BUILD) and name != "build_context"}
        given = {name: value for name, value in values.items() if name in SubmitRequest.__dataclass_fields__}
        return SubmitRequest(
            cwd=cwd,
            target=target,
            arguments=arguments,
            build={name: value for name, value in build.items() if value is not None},
            typed=frozenset(REQUEST_FIELDS.get(name, name) for name, source in sources.items() if source == TYPED),
            **given,
        )
