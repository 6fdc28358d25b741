"""Measure the time and the requests of `himl` commands for Azure ML, on the double.

`first` is a call with an empty cache, `again` each later one. The double runs in another process, whose time does not
count."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.measure import HIML, HimlWorkspace, himl_workspace, new_parser, recording

RUNS, FILES, RUN = 300, 50, "train_1"
COMMANDS = {
    "himl --help": ["--help"],
    "himl runs list": ["runs", "list", "--json"],
    "himl runs show": ["runs", "show", RUN, "--json"],
    "himl download": ["download", RUN, "--output_dir", "out", "--quiet"],
    "himl datastore list": ["datastore", "list", "--quiet"],
}


def fill(himl: HimlWorkspace) -> None:
    for number in range(RUNS):
        himl.staged.add_run(f"many_{number:06d}", "many", tags={"batch": str(number % 8)})
    himl.staged.put_artifacts(
        himl.staged.add_run(RUN, "train"), {f"outputs/file_{number:03d}.bin": b"x" * 1000 for number in range(FILES)}
    )


if __name__ == "__main__":
    args = new_parser(__doc__, 7).parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        himl_workspace(Path(name)) as himl,
        recording("azure_start", args.raw) as record,
    ):
        fill(himl)
        for label, arguments in COMMANDS.items():
            shutil.rmtree(himl.home, ignore_errors=True)
            for number in range(args.rounds + 1):
                shutil.rmtree(Path(name, "out"), ignore_errors=True)
                # The folder has no settings of a project.
                figures = himl.spend([HIML, *arguments], himl.environment(), Path(name))
                record.add("again" if number else "first", label, number or 1, **figures)
