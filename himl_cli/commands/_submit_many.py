"""The options of `himl submit` that make many runs of one job, or go on with what stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from himl_cli.commands._bundles import Bundle

MANY = "Many runs"
Text = str | None


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
