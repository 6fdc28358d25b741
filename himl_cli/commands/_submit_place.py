"""The options of `himl submit` that say where a job runs, what is sent, and in which environment it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from himl_cli.commands._bundles import Bundle
from himl_cli.commands._options import ENV_VAR, parse_pairs, split_list
from himl_cli.core.text import non_blank

WHERE, SENT, ENVIRONMENT = "Where it runs", "What is sent", "Environment (of a cluster, except --env_var)"
Text = str | None


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
