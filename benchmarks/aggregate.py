"""Measure `himl runs aggregate`.

`there`: a sweep of 200 trials with 10 metrics on the double, which delays each request by 100 ms, next to azureml-core,
which requests each child separately. `here`: 1,000 trials with 20 metrics of 100 steps in a local workspace."""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.measure import (
    HIML,
    PROGRAMS,
    HimlWorkspace,
    clean_environment,
    himl_workspace,
    new_parser,
    peer_python,
    recording,
    spend,
)
from benchmarks.raw import Raw
from benchmarks.runs_list import record_ended
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import HYPERPARAMETERS
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database
from tests.azureml_double.faults import Latency
from tests.azureml_double.seeding import add_sweep
from tests.support.clients import AZUREML_CORE

SWEEP = "sweep_1750000000_0a1b2c3d"
TRIALS, METRICS, STEPS = 200, 10, 20
LATENCY = 0.1
THERE, HERE = "200 trials x 10 metrics on Azure ML", "1,000 local trials x 20 metrics x 100 steps"
THEIRS, TABLE = "azureml-core, child by child", "himl runs aggregate"
WAYS_HERE = {
    TABLE: [],
    f"{TABLE} --output_csv": ["--output_csv", "m.csv"],
    f"{TABLE} --output_parquet": ["--output_parquet", "m.parquet"],
}
WAYS_HERE[f"{TABLE} --json"] = ["--json"]
AGGREGATE = [HIML, "runs", "aggregate", SWEEP]
AT_ONCE = 10


def measure_there(himl: HimlWorkspace, folder: Path, rounds: int, record: Raw) -> None:
    """Measure all candidates on the double. azureml-core takes minutes, so it runs once."""
    values = [{"lr": 0.001 * (number + 1)} for number in range(TRIALS)]
    add_sweep(
        himl.staged,
        SWEEP,
        values,
        lambda index, _: {
            f"metric {metric}": [float(index + step) for step in range(STEPS)] for metric in range(METRICS)
        },
    )
    environment = himl.environment(HOME=str(folder), AZUREML_DEFAULT_RETRIES="0")
    python = peer_python(record, AZUREML_CORE, THEIRS, "azureml-core")
    # Compile the modules and cache the token, as on a normal working day.
    spend([HIML, "runs", "list"], environment)
    himl.staged.stage.faults.add(Latency(LATENCY), times=None)
    for number in range(1, rounds + 1):
        record.add(THERE, TABLE, number, **himl.spend(AGGREGATE, environment))
    record.add(THERE, f"{TABLE} --json", 1, **himl.spend([*AGGREGATE, "--json"], environment))
    himl.staged.state.bulk_history = True
    record.add(THERE, f"{TABLE} --json, histories in bulk", 1, **himl.spend([*AGGREGATE, "--json"], environment))
    if python:
        record.add(THERE, THEIRS, 1, **himl.spend([python, PROGRAMS, "child_by_child", SWEEP], environment))


def record_sweep(folder: Path, children: int, metrics: int, steps: int) -> None:
    """Record a completed sweep in *folder*/.himl. Ten trials write at a time, so that the points of one run are not
    contiguous.
    """
    (folder / ".himl" / "runs").mkdir(parents=True)
    trials = [
        Run(
            f"{SWEEP}_{number}",
            "sweep",
            parent=SWEEP,
            tags={HYPERPARAMETERS: json.dumps({"lr": number / 1000, "depth": number % 4})},
        )
        for number in range(children)
    ]
    with closing(Database(folder / ".himl" / "workspace.db", create=True)) as database:
        record_ended(database, [Run(SWEEP, "sweep", display_name="sweep"), *trials])
        store = MetricStore(database)
        for start in range(0, children, AT_ONCE):
            for first in range(0, steps, AT_ONCE):
                for number in range(start, min(children, start + AT_ONCE)):
                    logged = [
                        (metric, step)
                        for step in range(first, min(steps, first + AT_ONCE))
                        for metric in range(metrics)
                    ]
                    values = [
                        (f"val/metric {metric}", math.sin(step * metric) + number, step, 1_750_000_000_000 + step)
                        for metric, step in logged
                    ]
                    store.log(trials[number].id, values)


if __name__ == "__main__":
    args = new_parser(__doc__, 5).parse_args()
    with tempfile.TemporaryDirectory() as name, recording("aggregate", args.raw) as record:
        there, here = Path(name, "there"), Path(name, "here")
        with himl_workspace(there) as himl:
            measure_there(himl, Path(name), args.rounds, record)
        record_sweep(here, 1000, 20, 100)
        for way, number in ((way, number) for way in WAYS_HERE for number in range(1, args.rounds + 1)):
            record.add(HERE, way, number, **spend([*AGGREGATE, *WAYS_HERE[way]], clean_environment(), here))
