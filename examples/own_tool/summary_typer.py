"""Show the status and the best values of runs, one line per run: a tool of a team, with himl's options, built with
Typer.

python summary_typer.py --experiment digits --num_runs 5 --metric loss
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from himl_cli import Run, cli

app = cli.app()


@cli.command(app)
def summary(
    runs: cli.Runs,
    place: cli.Place,
    talk: cli.Talk,
    named: cli.RunArguments = None,
    metric: Annotated[str, typer.Option(metavar="NAME", help="Name of the metric.")] = "loss",
) -> None:
    """Show the status and the values of runs, one line per run."""
    talk.rows(row(run, metric) for run in runs.find(place, named))


def row(run: Run, metric: str) -> dict[str, Any]:
    """Return the columns of a run. Values that it did not log are empty."""
    logged = run.get_metrics(metric).get(metric, [])
    values = logged if isinstance(logged, list) else [logged]
    last = values[-1] if values else None
    return {
        "run": run.id,
        "status": run.status,
        "seconds": run.record.duration,
        "last": last,
        "lowest": min(values, default=None),
    }


if __name__ == "__main__":
    cli.main(app)
