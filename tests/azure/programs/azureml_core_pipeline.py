"""What azureml-core says of the pipeline LAB_PIPELINE and of its steps, as JSON."""

from __future__ import annotations

import json
import os
import sys

from azureml.core.run import Run
from azureml_core_read import described, opened  # type: ignore[import-not-found]


def main() -> None:
    run = Run.get(opened(), os.environ["LAB_PIPELINE"])
    steps = {child.display_name: child for child in run.get_children()}
    found = {
        "run": {**described(run), "type": run.type},
        "steps": {
            name: {**described(child), "type": child.type, "parent": child.parent.id, "files": sorted(child.get_file_names())} for name, child in steps.items()
        },
        "details": {name: child.get_details()["properties"]["azureml.pipelinerunid"] for name, child in steps.items()},
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
