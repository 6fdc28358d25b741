"""How runs ended and what they reached, a line each: a tool of a team's own, with himl's options, by Typer.

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
    metric: Annotated[str, typer.Option(metavar="NAME", help="The metric to look at.")] = "loss",
) -> None:
    """How runs ended and what they reached, a line each."""
    talk.rows(row(run, metric) for run in runs.find(place, named))


def row(run: Run, metric: str) -> dict[str, Any]:
    """What is shown of a run; nothing for what it did not log."""
    logged = run.get_metrics(metric).get(metric, [])
    values = logged if isinstance(logged, list) else [logged]
    last = values[-1] if values else None
    return {"run": run.id, "status": run.status, "seconds": run.record.duration, "last": last, "lowest": min(values, default=None)}


if __name__ == "__main__":
    cli.main(app)
