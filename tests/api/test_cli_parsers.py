"""`from himl_cli import cli`: what a tool takes of it into a Typer app of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from himl_cli import cli
from himl_cli.core.errors import BadUsage
from tests.support.runs import RecordedRuns


def test_the_workspace_and_the_runs_that_are_meant(project: Path, local_runs: RecordedRuns) -> None:
    assert cli.Place().open().get_run("train_1_aa").tags == {"team": "blue"}
    assert [run.id for run in cli.Runs(run=["train_2_bb"]).find(explicit=True)] == ["train_2_bb"]
    (project / "most_recent_run.txt").write_text("train:child_a\n")
    assert [run.id for run in cli.Runs().find()] == ["child_a"]
    with pytest.raises(BadUsage, match="Say which run is meant"):
        cli.Runs().find(explicit=True)


def test_typers_runner_sees_what_a_user_sees(local_runs: RecordedRuns) -> None:
    app = cli.app()

    @cli.command(app)
    def tool(runs: cli.Runs, talk: cli.Talk, named: cli.RunArguments = None) -> None:
        """List runs."""
        talk.rows(({"run": run.id} for run in runs.find(named=named)), empty="None.")

    found = CliRunner().invoke(app, ["train_2_bb", "--run", "train_1_aa"])
    assert (found.exit_code, found.stdout) == (0, "run\ntrain_2_bb\ntrain_1_aa\n")
    missing = CliRunner().invoke(app, ["nope", "--json"])
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert json.loads(missing.stderr)["error"]["code"] == "run_not_found"


def test_a_plain_typer_takes_bundles_by_our_command_alone(local_runs: RecordedRuns) -> None:
    def tool(runs: cli.Runs) -> None:
        typer.echo(" ".join(run.id for run in runs.find()))

    wrong, right = typer.Typer(), typer.Typer()
    wrong.command()(tool)
    with pytest.raises(RuntimeError, match=r"himl_cli\.cli\.Runs, which needs @cli\.command\(app\) in place of @app\.command\(\)"):
        typer.main.get_command(wrong)
    cli.command(right)(tool)
    assert CliRunner().invoke(right, ["--run-ids", "train_1_aa"]).stdout == "train_1_aa\n"


def test_two_parameters_of_one_name_are_said_to_the_tools_author() -> None:
    def of_its_own(run: str, runs: cli.Runs) -> None: ...

    def twice(ours: cli.Talk, theirs: cli.Talk) -> None: ...

    said = "of_its_own(): 'run' is there twice, since 'runs: Runs' brings an option of that name: give the parameter 'run' another name."
    with pytest.raises(ValueError, match=re.escape(said)):
        cli.command(cli.app())(of_its_own)
    with pytest.raises(ValueError, match=re.escape("brings an option of that name: leave 'theirs: Talk' out.")):
        cli.command(cli.app())(twice)


def test_a_plain_typer_takes_single_options(local_runs: RecordedRuns) -> None:
    app = typer.Typer()

    @app.command()
    def tool(
        run: cli.RunOption = None,
        experiment: cli.ExperimentOption = None,
        num_runs: cli.NumRunsOption = None,
        tags: cli.TagsOption = None,
        status: cli.StatusOption = None,
        latest_run_file: cli.LatestRunFileOption = None,
        workspace: cli.WorkspaceOption = None,
        config_file: cli.ConfigFileOption = None,
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        runs = cli.Runs(run, experiment, num_runs, tags, status, latest_run_file).find(cli.Place(workspace, config_file))
        typer.echo(" ".join(each.id.upper() if loud else each.id for each in runs))

    every = ["--experiment", "train", "--num_runs", "2", "--status", "failed", "--tags", "team=red", "--workspace", "local", "--loud"]
    assert CliRunner().invoke(app, every).stdout == "TRAIN_2_BB\n"
    assert CliRunner().invoke(app, ["--run", "train_1_aa,child_a"]).stdout == "train_1_aa child_a\n"


def test_the_import_is_light() -> None:
    heavy = ["rich", "azure", "msgspec", "yaml", "sqlite3", "asyncio", "mlflow", "pydantic", "himl_cli.app", "himl_cli.api.workspace"]
    program = f"from himl_cli import cli; import sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
