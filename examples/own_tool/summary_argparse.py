"""How runs ended and what they reached, a line each: a tool of a team's own, with himl's options, by argparse.

python summary_argparse.py --experiment digits --num_runs 5 --metric loss
"""

from __future__ import annotations

import argparse
from typing import Any

from himl_cli import Run, cli


def main() -> None:
    parser = argparse.ArgumentParser(description="How runs ended and what they reached, a line each.", parents=[cli.parent_parser()])
    parser.add_argument("named", nargs="*", metavar="RUN", help="run ids, as --run")
    parser.add_argument("--metric", default="loss", metavar="NAME", help="the metric to look at (default: loss)")
    with cli.errors():
        args = parser.parse_args()
        runs = cli.Runs.of(args).find(cli.Place.of(args), args.named)
        cli.Talk.of(args).rows(row(run, args.metric) for run in runs)


def row(run: Run, metric: str) -> dict[str, Any]:
    """What is shown of a run; nothing for what it did not log."""
    logged = run.get_metrics(metric).get(metric, [])
    values = logged if isinstance(logged, list) else [logged]
    last = values[-1] if values else None
    return {"run": run.id, "status": run.status, "seconds": run.record.duration, "last": last, "lowest": min(values, default=None)}


if __name__ == "__main__":
    main()
