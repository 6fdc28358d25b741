"""The options of `himl submit`, in the groups of its help."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands._bundles import Bundle
from himl_cli.commands._options import parse_pairs, split_list
from himl_cli.core.errors import BadUsage

if TYPE_CHECKING:
    from himl_cli.services.submission import SubmitRequest

WHERE, SENT, ENVIRONMENT, NAMING, BUILD, DATA, AFTER = (
    "Where it runs",
    "What is sent",
    "Environment",
    "Naming",
    "Facts for tags (default: from git)",
    "Data",
    "After",
)
Text = str | None


class PlaceOptions(Bundle):
    """Where the job runs, and as how many processes."""

    def __init__(
        self,
        cluster: Annotated[Text, typer.Option("--cluster", metavar="NAME", help="Azure ML compute; absent or 'local': here.", rich_help_panel=WHERE)] = None,
        record_in: Annotated[Text, typer.Option("--record_in", metavar="WHERE", help="Where it is recorded: local.", rich_help_panel=WHERE)] = None,
        in_place: Annotated[bool, typer.Option("--in_place", help="Run here without a snapshot, for a debugger.", rich_help_panel=WHERE)] = False,
        num_nodes: Annotated[int, typer.Option("--num_nodes", metavar="N", help="Machines.", rich_help_panel=WHERE, show_default=True)] = 1,
        processes_per_node: Annotated[
            int | None, typer.Option("--processes_per_node", metavar="N", help="Processes (ranks) a machine.", rich_help_panel=WHERE)
        ] = None,
        distribution: Annotated[
            Text, typer.Option("--distribution", metavar="KIND", help="pytorch or mpi: whose rank variables are set.", rich_help_panel=WHERE)
        ] = None,
        max_run_duration: Annotated[
            Text, typer.Option("--max_run_duration", metavar="TIME", help="End the job after 30s, 30m, 2h or 1.5d.", rich_help_panel=WHERE)
        ] = None,
        python: Annotated[
            Text, typer.Option("--python", metavar="PATH", help="The interpreter (default: the active environment's).", rich_help_panel=WHERE)
        ] = None,
    ) -> None:
        self.cluster = cluster
        self.record_in = record_in
        self.in_place = in_place
        self.num_nodes = num_nodes
        self.processes_per_node = processes_per_node
        self.distribution = distribution
        self.max_run_duration = max_run_duration
        self.python = python


class SentOptions(Bundle):
    """What is copied into the run, and the variables it gets."""

    def __init__(
        self,
        snapshot_root: Annotated[
            Text, typer.Option("--snapshot_root", metavar="DIR", help="The folder that is sent (default: the project's).", rich_help_panel=SENT)
        ] = None,
        ignored_folders: Annotated[
            list[str] | None, typer.Option("--ignored_folders", metavar="DIR,...", help="Folders to leave out as well.", rich_help_panel=SENT)
        ] = None,
        env_var: Annotated[list[str] | None, typer.Option("--env_var", metavar="K=V", help="A variable of the job.", rich_help_panel=ENVIRONMENT)] = None,
    ) -> None:
        self.snapshot_root = snapshot_root
        self.ignored_folders = split_list(ignored_folders)
        self.env_vars = parse_pairs("--env_var", env_var or ())


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
            bool, typer.Option("--experiment_from_branch", help="Name the experiment after the git branch.", rich_help_panel=NAMING)
        ] = False,
        display_name: Annotated[str, typer.Option("--display_name", metavar="TEXT", help="The run's name for people.", rich_help_panel=NAMING)] = "",
        description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What the run is about.", rich_help_panel=NAMING)] = "",
        tag: Annotated[list[str] | None, typer.Option("--tag", metavar="K=V", help="A tag of the run.", rich_help_panel=NAMING)] = None,
    ) -> None:
        self.experiment = experiment
        self.experiment_from_branch = experiment_from_branch
        self.display_name = display_name
        self.description = description
        self.tags = parse_pairs("--tag", tag or ())


class BuildOptions(Bundle):
    """Facts for CI, which override what git says."""

    def __init__(
        self,
        build_branch: Annotated[Text, typer.Option("--build_branch", metavar="TEXT", rich_help_panel=BUILD, help="Branch.")] = None,
        build_source_id: Annotated[Text, typer.Option("--build_source_id", metavar="TEXT", rich_help_panel=BUILD, help="Commit.")] = None,
        build_source_author: Annotated[Text, typer.Option("--build_source_author", metavar="TEXT", rich_help_panel=BUILD, help="Author of the commit.")] = None,
        build_source_message: Annotated[
            Text, typer.Option("--build_source_message", metavar="TEXT", rich_help_panel=BUILD, help="Message of the commit.")
        ] = None,
        build_source_repository: Annotated[Text, typer.Option("--build_source_repository", metavar="TEXT", rich_help_panel=BUILD, help="Repository.")] = None,
        build_number: Annotated[Text, typer.Option("--build_number", metavar="TEXT", rich_help_panel=BUILD, help="Number of the build.")] = None,
        build_user: Annotated[Text, typer.Option("--build_user", metavar="TEXT", rich_help_panel=BUILD, help="Who started the build.")] = None,
        build_user_email: Annotated[Text, typer.Option("--build_user_email", metavar="TEXT", rich_help_panel=BUILD, help="Their e-mail address.")] = None,
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
        self.tags = {name: value for name, value in given.items() if value is not None}


class DataOptions(Bundle):
    """Folders the job reads and writes."""

    def __init__(
        self,
        input: Annotated[
            list[str] | None, typer.Option("--input", metavar="SPEC", help="Data the job reads: [KEY=]NAME[,local=PATH].", rich_help_panel=DATA)
        ] = None,
        output: Annotated[
            list[str] | None, typer.Option("--output", metavar="SPEC", help="Data it writes: [KEY=]NAME[,local=PATH].", rich_help_panel=DATA)
        ] = None,
        default_datastore: Annotated[
            Text, typer.Option("--default_datastore", metavar="NAME", help="Datastore of inputs and outputs that name none.", rich_help_panel=DATA)
        ] = None,
    ) -> None:
        self.inputs = input or []
        self.outputs = output or []
        self.default_datastore = default_datastore


class AfterOptions(Bundle):
    """What happens once the job is submitted."""

    def __init__(
        self,
        wait: Annotated[bool, typer.Option("--wait/--no_wait", help="Wait for the end and show the output.", rich_help_panel=AFTER, show_default=True)] = True,
        follow: Annotated[bool, typer.Option("--follow", help="Show the output while waiting (always done here).", rich_help_panel=AFTER)] = False,
        show_settings: Annotated[
            bool, typer.Option("--show_settings", help="Show each option's value and where it came from; run nothing.", rich_help_panel=AFTER)
        ] = False,
    ) -> None:
        if follow and not wait:
            raise BadUsage("--follow and --no_wait exclude each other.", hint="Follow later: himl runs logs --follow RUN")
        self.wait = wait
        self.show_settings = show_settings


def submit_request(
    cwd: Path,
    target: str | None,
    module: str | None,
    arguments: tuple[str, ...],
    place: PlaceOptions,
    sent: SentOptions,
    naming: NamingOptions,
    build: BuildOptions,
    data: DataOptions,
) -> SubmitRequest:
    """All options as the service takes them."""
    from himl_cli.services.submission import SubmitRequest

    return SubmitRequest(
        cwd=cwd,
        target=target,
        module=module,
        arguments=arguments,
        python=place.python,
        in_place=place.in_place,
        num_nodes=place.num_nodes,
        processes_per_node=place.processes_per_node,
        distribution=place.distribution,
        max_run_duration=place.max_run_duration,
        snapshot_root=sent.snapshot_root,
        ignored_folders=sent.ignored_folders,
        env_vars=sent.env_vars,
        experiment=naming.experiment,
        experiment_from_branch=naming.experiment_from_branch,
        display_name=naming.display_name,
        description=naming.description,
        tags=naming.tags,
        build=build.tags,
        inputs=data.inputs,
        outputs=data.outputs,
        default_datastore=data.default_datastore,
    )
