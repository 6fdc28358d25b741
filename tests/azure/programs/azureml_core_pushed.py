"""Print what azureml-core says of the run LAB_RUN, and download its files. Argument: a folder for downloads."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from azureml.core.run import Run
from azureml_core_read import opened  # type: ignore[import-not-found]


def main() -> None:
    folder = Path(sys.argv[1])
    run = Run.get(opened(), os.environ["LAB_RUN"])
    run.download_files(prefix="outputs/checkpoints", output_directory=str(folder))
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    said = {"status": run.get_status(), "name": run.display_name, "experiment": run.experiment.name, "tags": run.get_tags()}
    sys.stdout.write(json.dumps({**said, "names": sorted(run.get_file_names()), "files": files}) + "\n")


if __name__ == "__main__":
    main()
