"""Log with azureml-core what himl has logged to the run called `by himl`, and print what azureml-core reads of both runs, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from azureml.core import Experiment
from azureml.core.run import Run
from azureml_core_read import opened  # type: ignore[import-not-found]

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)


class Figure:
    """As matplotlib's figures, which save themselves."""

    def savefig(self, target: Any, format: str) -> None:
        target.write(PNG)


def log_all(run: Run) -> None:
    """The same calls as in `tests/azure/test_written_runs.py`."""
    for step, loss in enumerate((1.0, 0.5, 0.25)):
        run.log("loss", loss, step=step)
    run.log("once", 3)
    run.log("flag", True)
    run.log("word", "yes")
    run.log_list("sizes", [1, 2, 3])
    run.log_list("mixed", [1, 0.5])
    run.log_row("row", a=1, b=2.5, c="x")
    run.log_row("rows", a=1, b=2.5)
    run.log_row("rows", a=2, b=0.5)
    run.log_row("single", x=1)
    run.log_list("words", ["a", "b"])
    run.log_table("table", {"epoch": [1, 2], "accuracy": [0.7, 0.8], "note": ["a", "b"]})
    run.log_image("curve", plot=Figure())


def read(run: Run) -> dict[str, Any]:
    details = run.get_details()
    return {
        "id": run.id,
        "status": run.get_status(),
        "name": run.display_name,
        "tags": run.get_tags(),
        "metrics": run.get_metrics(),
        "files": sorted(run.get_file_names()),
        "error": (details.get("error") or {}).get("error", {}).get("message"),
        "parent": run.parent.id if run.parent else None,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    experiment = Experiment(opened(), os.environ["LAB_EXPERIMENT"])
    theirs = {run.display_name: read(run) for run in experiment.get_runs()}
    Run.get(experiment.workspace, theirs["by himl"]["id"]).download_file("outputs/model.bin", str(folder / "model.bin"))
    own = experiment.start_logging(display_name="by azureml-core", snapshot_directory=None, outputs=None)
    log_all(own)
    own.flush()
    own.fail(error_details="no memory left")
    said = {"himl": theirs, "core": read(own), "model": (folder / "model.bin").read_bytes().decode()}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
