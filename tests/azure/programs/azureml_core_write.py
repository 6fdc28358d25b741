"""Make a run with azureml-core, log to it, move files by a datastore, and print what there is then, as JSON. Argument: a folder for files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from azureml.core import Datastore, Experiment, Workspace
from azureml.core.run import Run
from azureml_core_read import digests_below, opened  # type: ignore[import-not-found]


def logged(run: Run, folder: Path) -> None:
    for step, loss in enumerate((1.0, 0.5, 0.25)):
        run.log("loss", loss, step=step)
    run.log_list("sizes", [1, 2, 3])
    run.log_row("row", a=1, b=2.5)
    run.log("word", "yes")
    run.set_tags({"kind": "by hand", "note": "a b", "gone": "soon"})
    run.remove_tags(["gone"])
    run.add_properties({"origin": "azureml-core"})
    file = folder / "sent" / "model.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\x00\x01" * 5000)
    run.upload_file("outputs/model.bin", str(file))
    run.upload_folder("outputs/folder", str(file.parent))
    run.flush()


def moved(folder: Path, store: Datastore) -> dict[str, str]:
    (folder / "up" / "sub").mkdir(parents=True)
    (folder / "up" / "sub" / "a.txt").write_bytes(b"a")
    store.upload(str(folder / "up"), target_path="from/core", show_progress=False)
    store.download(str(folder / "down"), prefix="from/core", show_progress=False)
    found: dict[str, str] = digests_below(folder / "down")
    return found


def tidied(workspace: Workspace) -> list[str]:
    """The experiments that are left when one was archived and another deleted."""
    Experiment(workspace, "archived").archive()
    Experiment.delete(workspace, Experiment(workspace, "deleted").id)
    return sorted(one.name for one in Experiment.list(workspace))


def main() -> None:
    folder = Path(sys.argv[1])
    workspace = opened()
    left = tidied(workspace)
    run = Experiment(workspace, "by_hand").start_logging(display_name="written", snapshot_directory=None)
    child = run.child_run(name="child")
    child.log("loss", 3.0)
    child.complete()
    logged(run, folder)
    run.complete()
    again = Run.get(workspace, run.id)
    found = {
        "experiments": left,
        "id": run.id,
        "child": child.id,
        "status": again.get_status(),
        "metrics": again.get_metrics(),
        "tags": again.get_tags(),
        "properties": again.get_properties(),
        "children": [one.id for one in again.get_children()],
        "files": sorted(again.get_file_names()),
        "moved": moved(folder, Datastore.get(workspace, "workspaceblobstore")),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
