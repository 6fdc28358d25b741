"""The options of `himl submit` that name a run, by hand or with the facts of a build."""

from __future__ import annotations

from typing import Annotated

import typer

from himl_cli.commands._bundles import Bundle
from himl_cli.commands._options import parse_pairs

NAMING, BUILD = "Naming", "Facts for tags (default: from git)"
Text = str | None


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
