"""Submit a script to the lab with azureml-core, wait for it, submit it again, and print what it says, as JSON. Argument: a folder for files."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

os.environ.pop("AZUREML_RUN_POLLING_INTERVAL_MIN", None)  # azureml-core would compare the text with a number

from azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from azureml.core.runconfig import DataLocation, DataPath, OutputData, OutputOptions, RegistrationOptions
from azureml_core_read import opened  # type: ignore[import-not-found]

TRAIN = """
import sys
from pathlib import Path
Path(sys.argv[1], "made.txt").write_text("made")
print("trained", Path("sub/a b.txt").read_text())
"""
WHEEL = "lab_tools-1.0-py3-none-any.whl"


def environment_of(workspace: Workspace, folder: Path) -> tuple[Environment, list[str]]:
    """A registered environment, and where a private wheel is, uploaded twice."""
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("lab_tools.py", "")
    places = [Environment.add_private_pip_wheel(workspace, str(folder / WHEEL), exist_ok=True) for _ in range(2)]
    Environment.get(workspace, "torch")
    return Environment.get(workspace, "torch", version="1"), places


def main() -> None:
    folder = Path(sys.argv[1])
    code = folder / "code"
    (code / "sub").mkdir(parents=True)
    (code / "train.py").write_text(TRAIN)
    (code / "sub" / "a b.txt").write_text("well")
    workspace = opened()
    environment, places = environment_of(workspace, folder)
    config = ScriptRunConfig(str(code), script="train.py", arguments=["DatasetOutputConfig:made"], compute_target="cpu-cluster", environment=environment)
    location = DataLocation(data_path=DataPath("workspaceblobstore", "sent/by/core"))
    config.run_config.output_data = {"made": OutputData(location, "mount", OutputOptions(registration_options=RegistrationOptions("made_by_core")))}
    run = Experiment(workspace, "sent_by_core").submit(config, tags={"from": "core"})
    run.wait_for_completion(show_output=False)
    again = Experiment(workspace, "sent_by_core").submit(config)
    again.wait_for_completion(show_output=False)
    run.download_file("user_logs/std_log.txt", str(folder / "log.txt"))
    found = {
        "ids": [run.id, again.id],
        "status": run.get_status(),
        "log": (folder / "log.txt").read_text(),
        "tags": run.get_tags(),
        "snapshots": [one.get_properties()["ContentSnapshotId"] for one in (run, again)],
        "wheel": places,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
