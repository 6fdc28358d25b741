"""The options of `himl submit` about data and about what follows, and all of them as one request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from himl_cli.commands.options import ENV_VAR, Bundle, parse_pairs, split_list
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.services.submission.request import SubmitRequest


DATA, AFTER = "Data", "After"
TYPED = "command line"
RENAMED = {"env_var": "env_vars", "tag": "tags", "input": "inputs", "output": "outputs"}
"""Options whose field in a request is called otherwise."""
Text = str | None


class DataOptions(Bundle):
    """Folders the job reads and writes."""

    def __init__(
        self,
        input: Annotated[
            list[str] | None,
            typer.Option(
                "--input",
                metavar="SPEC",
                help="Data it reads: [KEY=]NAME[:VERSION][,OPTION=...]. Options: datastore, mode (download, mount), "
                "target, local.",
                rich_help_panel=DATA,
            ),
        ] = None,
        output: Annotated[
            list[str] | None,
            typer.Option(
                "--output",
                metavar="SPEC",
                help="Data it writes: [KEY=]NAME[,OPTION=...]. Options: datastore, mode (mount, upload), overwrite "
                "(true, false), local.",
                rich_help_panel=DATA,
            ),
        ] = None,
        default_datastore: Annotated[
            Text,
            typer.Option(
                "--default_datastore",
                metavar="NAME",
                help="Datastore of inputs and outputs that name none.",
                rich_help_panel=DATA,
            ),
        ] = None,
        checkpoint: Annotated[
            Text,
            typer.Option(
                "--checkpoint",
                metavar="SOURCE",
                help="Start with this in outputs/checkpoints: a file, a folder, an https address, RUN (its last "
                "checkpoint), RUN:FILE or RUN:FOLDER/.",
                rich_help_panel=DATA,
            ),
        ] = None,
    ) -> None:
        self.fields = {
            "inputs": tuple(input or ()),
            "outputs": tuple(output or ()),
            "default_datastore": default_datastore,
            "checkpoint": checkpoint,
        }


class AfterOptions(Bundle):
    """What happens once the job is submitted, or in its place."""

    def __init__(
        self,
        wait: Annotated[
            bool | None,
            typer.Option(
                "--wait/--no_wait",
                help="Wait for the end (default: here yes, on a cluster no).",
                rich_help_panel=AFTER,
                show_default=False,
            ),
        ] = None,
        follow: Annotated[
            bool,
            typer.Option(
                "--follow", help="Wait, and show the output as it comes (always so here).", rich_help_panel=AFTER
            ),
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry_run", help="Print the job as Azure ML YAML; send nothing.", rich_help_panel=AFTER)
        ] = False,
        show_settings: Annotated[
            bool,
            typer.Option(
                "--show_settings",
                help="Show each option's value and where it came from; run nothing.",
                rich_help_panel=AFTER,
            ),
        ] = False,
        sdk: Annotated[
            str,
            typer.Option(
                "--sdk",
                metavar="SDK",
                help="v2, or v1: by the deprecated azureml-core.",
                rich_help_panel=AFTER,
                show_default=True,
            ),
        ] = "v2",
    ) -> None:
        self.wait = wait
        self.follow = follow
        self.dry_run = dry_run
        self.show_settings = show_settings
        self.fields = {"sdk": sdk}

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


class _HasFields(Protocol):
    """Options in the form of a request's fields."""

    fields: Any


def submit_request(
    cwd: Path,
    target: str | None,
    module: str | None,
    command: str | None,
    arguments: tuple[str, ...],
    bundles: tuple[_HasFields, ...],
    sources: Mapping[str, str],
) -> SubmitRequest:
    """All options as the service takes them; *sources* say where each value came from."""
    from himl_cli.services.submission.request import SubmitRequest

    typed = frozenset(RENAMED.get(name, name) for name, source in sources.items() if source == TYPED)
    fields: dict[str, Any] = {}
    for bundle in bundles:
        fields |= bundle.fields
    return SubmitRequest(
        cwd=cwd, target=target, module=module, command=command, arguments=arguments, typed=typed, **fields
    )


WHERE, SENT, ENVIRONMENT = "Where it runs", "What is sent", "Environment (of a cluster, except --env_var)"


class PlaceOptions(Bundle):
    """Where the job runs, and as how many processes."""

    def __init__(
        self,
        cluster: Annotated[
            Text,
            typer.Option(
                "--cluster", metavar="NAME", help="Azure ML compute; absent or 'local': here.", rich_help_panel=WHERE
            ),
        ] = None,
        record_in: Annotated[
            Text,
            typer.Option(
                "--record_in",
                metavar="WHERE",
                help="Where a job that runs here is recorded: local or azure.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        in_place: Annotated[
            bool, typer.Option("--in_place", help="Run here without a snapshot, for a debugger.", rich_help_panel=WHERE)
        ] = False,
        num_nodes: Annotated[
            int,
            typer.Option(
                "--num_nodes", metavar="N", help="Machines of the cluster.", rich_help_panel=WHERE, show_default=True
            ),
        ] = 1,
        processes_per_node: Annotated[
            int | None,
            typer.Option(
                "--processes_per_node", metavar="N", help="Processes (ranks) a machine.", rich_help_panel=WHERE
            ),
        ] = None,
        distribution: Annotated[
            Text,
            typer.Option(
                "--distribution",
                metavar="KIND",
                help="pytorch or mpi (default: pytorch for several processes a machine, else mpi).",
                rich_help_panel=WHERE,
            ),
        ] = None,
        no_mpi_single_node: Annotated[
            bool,
            typer.Option(
                "--no_mpi_single_node",
                help="Send a job of one process as a plain one, not as MPI.",
                rich_help_panel=WHERE,
            ),
        ] = False,
        shm_size: Annotated[
            str,
            typer.Option(
                "--shm_size",
                metavar="SIZE",
                help="Shared memory on a cluster.",
                rich_help_panel=WHERE,
                show_default=True,
            ),
        ] = "100g",
        instance_type: Annotated[
            Text,
            typer.Option(
                "--instance_type",
                metavar="NAME",
                help="Instance type of a Kubernetes or serverless compute.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        docker_args: Annotated[
            list[str] | None,
            typer.Option(
                "--docker_args", metavar="ARGS", help="Arguments of 'docker run' on a cluster.", rich_help_panel=WHERE
            ),
        ] = None,
        identity: Annotated[
            Text,
            typer.Option(
                "--identity",
                metavar="WHOSE",
                help="user or managed: as whom it signs in to Azure.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        max_run_duration: Annotated[
            Text,
            typer.Option(
                "--max_run_duration",
                metavar="TIME",
                help="End the job after that time: 30s, 30m, 2h, 1.5d.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        vscode: Annotated[
            bool, typer.Option("--vscode", help="Let VS Code connect to the job on a cluster.", rich_help_panel=WHERE)
        ] = False,
        jupyter: Annotated[
            bool, typer.Option("--jupyter", help="Run JupyterLab beside the job on a cluster.", rich_help_panel=WHERE)
        ] = False,
        ssh_key: Annotated[
            Text,
            typer.Option(
                "--ssh_key",
                metavar="FILE",
                help="Let the owner of this public key sign in to the job by SSH.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        create_cluster: Annotated[
            bool,
            typer.Option(
                "--create_cluster",
                help="Make a pipeline's cluster where it is missing (size: .env).",
                rich_help_panel=WHERE,
            ),
        ] = False,
        python: Annotated[
            Text,
            typer.Option(
                "--python",
                metavar="PATH",
                help="The interpreter here (default: the active environment's).",
                rich_help_panel=WHERE,
            ),
        ] = None,
    ) -> None:
        self.create_cluster = create_cluster
        self.fields = {
            "cluster": cluster,
            "record_in": record_in,
            "in_place": in_place,
            "num_nodes": num_nodes,
            "processes_per_node": processes_per_node,
            "distribution": distribution,
            "no_mpi_single_node": no_mpi_single_node,
            "shm_size": shm_size,
            "docker_args": tuple(docker_args or ()),
            "identity": identity,
            "max_run_duration": max_run_duration,
            "instance_type": non_blank("--instance_type", instance_type),
            "vscode": vscode,
            "jupyter": jupyter,
            "ssh_key": non_blank("--ssh_key", ssh_key),
            "python": python,
        }


class SentOptions(Bundle):
    """What is copied into the run."""

    def __init__(
        self,
        snapshot_root: Annotated[
            Text,
            typer.Option(
                "--snapshot_root",
                metavar="DIR",
                help="The folder that is sent (default: the project's).",
                rich_help_panel=SENT,
            ),
        ] = None,
        ignored_folders: Annotated[
            list[str] | None,
            typer.Option(
                "--ignored_folders", metavar="DIR,...", help="Folders to leave out as well.", rich_help_panel=SENT
            ),
        ] = None,
        include_secret: Annotated[
            list[str] | None,
            typer.Option(
                "--include_secret",
                metavar="GLOB,...",
                help="Send these files, which may hold secrets, on purpose.",
                rich_help_panel=SENT,
            ),
        ] = None,
    ) -> None:
        self.fields = {
            "snapshot_root": snapshot_root,
            "ignored_folders": split_list(ignored_folders),
            "include_secret": split_list(include_secret),
        }


class EnvironmentOptions(Bundle):
    """The Python environment of a job on a cluster, and the variables that any job gets."""

    def __init__(
        self,
        conda_env: Annotated[
            list[str] | None,
            typer.Option(
                "--conda_env",
                metavar="FILE,...",
                help="Conda files (default: the nearest environment.yml).",
                rich_help_panel=ENVIRONMENT,
            ),
        ] = None,
        requirements: Annotated[
            Text,
            typer.Option(
                "--requirements",
                metavar="FILE",
                help="A pip requirements file, in place of a conda file.",
                rich_help_panel=ENVIRONMENT,
            ),
        ] = None,
        environment: Annotated[
            Text,
            typer.Option(
                "--environment",
                metavar="NAME[:V]",
                help="A registered environment, unchanged; also azureml://registries/...",
                rich_help_panel=ENVIRONMENT,
            ),
        ] = None,
        docker_image: Annotated[
            Text,
            typer.Option(
                "--docker_image",
                metavar="IMAGE",
                help="Docker image (default: one of Azure ML).",
                rich_help_panel=ENVIRONMENT,
            ),
        ] = None,
        build_context: Annotated[
            Text,
            typer.Option(
                "--build_context",
                metavar="DIR",
                help="The folder to build the Docker image from.",
                rich_help_panel=ENVIRONMENT,
            ),
        ] = None,
        dockerfile: Annotated[
            Text,
            typer.Option(
                "--dockerfile",
                metavar="FILE",
                help="The Dockerfile (default: the build context's Dockerfile).",
                rich_help_panel=ENVIRONMENT,
            ),
        ] = None,
        pip_extra_index_url: Annotated[
            Text,
            typer.Option(
                "--pip_extra_index_url", metavar="URL", help="One more index for pip.", rich_help_panel=ENVIRONMENT
            ),
        ] = None,
        private_wheel: Annotated[
            Text,
            typer.Option(
                "--private_wheel", metavar="FILE", help="A wheel to install as well.", rich_help_panel=ENVIRONMENT
            ),
        ] = None,
        env_var: Annotated[
            list[str] | None,
            typer.Option("--env_var", metavar="K=V", help="A variable of the job.", rich_help_panel=ENVIRONMENT),
        ] = None,
    ) -> None:
        self.fields = {
            "conda_env": tuple(split_list(conda_env)),
            "requirements": requirements,
            "environment": environment,
            "docker_image": docker_image,
            "build_context": non_blank("--build_context", build_context),
            "dockerfile": non_blank("--dockerfile", dockerfile),
            "pip_extra_index_url": pip_extra_index_url,
            "private_wheel": private_wheel,
            "env_vars": parse_pairs(ENV_VAR, env_var or ()),
        }


MANY = "Many runs"


class ManyOptions(Bundle):
    """A search over hyperparameters, a cross-validation, or different seeds."""

    def __init__(
        self,
        sweep: Annotated[
            list[str] | None,
            typer.Option(
                "--sweep",
                metavar="NAME=SPEC",
                help="Values of --NAME: 0.1,0.01 or uniform(a,b), loguniform(a,b) (e^a to e^b), normal(mu,sigma), "
                "randint(n).",
                rich_help_panel=MANY,
            ),
        ] = None,
        sampling: Annotated[
            Text,
            typer.Option(
                "--sampling",
                metavar="HOW",
                help="grid, random, random(seed=7) or bayesian (default: grid where all are lists, else random).",
                rich_help_panel=MANY,
            ),
        ] = None,
        max_trials: Annotated[
            int | None,
            typer.Option(
                "--max_trials",
                metavar="N",
                help="Trials in all (default: the whole grid); random and bayesian need it.",
                rich_help_panel=MANY,
            ),
        ] = None,
        max_concurrent: Annotated[
            int | None,
            typer.Option(
                "--max_concurrent",
                metavar="N",
                help="Trials at a time (default: here 1, on a cluster all).",
                rich_help_panel=MANY,
            ),
        ] = None,
        primary_metric: Annotated[
            str,
            typer.Option(
                "--primary_metric",
                metavar="NAME",
                help="The metric that trials are compared by.",
                rich_help_panel=MANY,
                show_default=True,
            ),
        ] = "val/loss",
        goal: Annotated[
            str,
            typer.Option(
                "--goal",
                metavar="GOAL",
                help="minimize or maximize the primary metric.",
                rich_help_panel=MANY,
                show_default=True,
            ),
        ] = "minimize",
        early_stop: Annotated[
            Text,
            typer.Option(
                "--early_stop",
                metavar="POLICY",
                help="Stop poor trials: bandit(slack_factor=0.1), median, truncation(truncation_percentage=20).",
                rich_help_panel=MANY,
            ),
        ] = None,
        crossval: Annotated[
            int | None,
            typer.Option(
                "--crossval", metavar="N", help="Run N splits: --crossval_index 0 to N-1.", rich_help_panel=MANY
            ),
        ] = None,
        crossval_arg: Annotated[
            str,
            typer.Option(
                "--crossval_arg", metavar="NAME", help="Another name for --crossval_index.", rich_help_panel=MANY
            ),
        ] = "crossval_index",
        crossval_count_arg: Annotated[
            Text,
            typer.Option(
                "--crossval_count_arg", metavar="NAME", help="Pass N as well, by this argument.", rich_help_panel=MANY
            ),
        ] = None,
        different_seeds: Annotated[
            int | None,
            typer.Option(
                "--different_seeds", metavar="N", help="Run N seeds: --random_seed 0 to N-1.", rich_help_panel=MANY
            ),
        ] = None,
        seed_arg: Annotated[
            str,
            typer.Option("--seed_arg", metavar="NAME", help="Another name for --random_seed.", rich_help_panel=MANY),
        ] = "random_seed",
        resume: Annotated[
            Text,
            typer.Option(
                "--resume",
                metavar="RUN",
                help="Go on with a run that is kept here: do what is missing, or try again; needs no TARGET.",
                rich_help_panel=MANY,
            ),
        ] = None,
    ) -> None:
        self.resume = resume
        self.fields = {
            "sweep": tuple(sweep or ()),
            "sampling": sampling,
            "max_trials": max_trials,
            "max_concurrent": max_concurrent,
            "primary_metric": primary_metric,
            "goal": goal,
            "early_stop": early_stop,
            "crossval": crossval,
            "crossval_arg": crossval_arg,
            "crossval_count_arg": crossval_count_arg,
            "different_seeds": different_seeds,
            "seed_arg": seed_arg,
        }


NAMING, BUILD = "Naming", "Facts for tags (default: from git)"


class NamingOptions(Bundle):
    """What the run is called."""

    def __init__(
        self,
        experiment: Annotated[
            Text,
            typer.Option(
                "--experiment",
                metavar="NAME",
                envvar=["HIML_SUBMIT_EXPERIMENT", "HIML_EXPERIMENT_NAME"],
                show_envvar=False,
                help="Experiment (default: HIML_EXPERIMENT_NAME, else the script's name).",
                rich_help_panel=NAMING,
            ),
        ] = None,
        experiment_from_branch: Annotated[
            bool,
            typer.Option(
                "--experiment_from_branch", help="Name the experiment after the git branch.", rich_help_panel=NAMING
            ),
        ] = False,
        display_name: Annotated[
            str,
            typer.Option("--display_name", metavar="TEXT", help="The run's name for people.", rich_help_panel=NAMING),
        ] = "",
        description: Annotated[
            str, typer.Option("--description", metavar="TEXT", help="What the run is about.", rich_help_panel=NAMING)
        ] = "",
        tag: Annotated[
            list[str] | None, typer.Option("--tag", metavar="K=V", help="A tag of the run.", rich_help_panel=NAMING)
        ] = None,
    ) -> None:
        self.fields = {
            "experiment": experiment,
            "experiment_from_branch": experiment_from_branch,
            "display_name": display_name,
            "description": description,
            "tags": parse_pairs("--tag", tag or ()),
        }


class BuildOptions(Bundle):
    """Facts for CI, which override what git says."""

    def __init__(
        self,
        build_branch: Annotated[
            Text, typer.Option("--build_branch", metavar="TEXT", rich_help_panel=BUILD, help="Branch.")
        ] = None,
        build_source_id: Annotated[
            Text, typer.Option("--build_source_id", metavar="TEXT", rich_help_panel=BUILD, help="Commit.")
        ] = None,
        build_source_author: Annotated[
            Text,
            typer.Option("--build_source_author", metavar="TEXT", rich_help_panel=BUILD, help="Author of the commit."),
        ] = None,
        build_source_message: Annotated[
            Text,
            typer.Option(
                "--build_source_message", metavar="TEXT", rich_help_panel=BUILD, help="Message of the commit."
            ),
        ] = None,
        build_source_repository: Annotated[
            Text, typer.Option("--build_source_repository", metavar="TEXT", rich_help_panel=BUILD, help="Repository.")
        ] = None,
        build_number: Annotated[
            Text, typer.Option("--build_number", metavar="TEXT", rich_help_panel=BUILD, help="Number of the build.")
        ] = None,
        build_user: Annotated[
            Text, typer.Option("--build_user", metavar="TEXT", rich_help_panel=BUILD, help="Who started the build.")
        ] = None,
        build_user_email: Annotated[
            Text,
            typer.Option("--build_user_email", metavar="TEXT", rich_help_panel=BUILD, help="Their e-mail address."),
        ] = None,
    ) -> None:
        given = {
            "build_branch": build_branch,
            "build_source_id": build_source_id,
            "build_source_author": build_source_author,
            "build_source_message": build_source_message,
            "build_source_repository": build_source_repository,
            "build_number": build_number,
            "build_user": build_user,
            "build_user_email": build_user_email,
        }
        self.fields = {"build": {name: value for name, value in given.items() if value is not None}}
