"""Change the checkpoints of a run, so that a model with other layer names can start from them.

    python modify_checkpoint.py RUN

fetches the checkpoints of RUN, renames a layer in each, and stores them in a new run, in the workspace of RUN.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from himl_cli import fetch_checkpoint, push_checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description="Rename a layer in the checkpoints of a run.")
    parser.add_argument("run", help="id of the run, experiment:run_id, or latest")
    parser.add_argument("--old", default="linear", help="name of the layer in the checkpoints")
    parser.add_argument("--new", default="head", help="new name of the layer")
    args = parser.parse_args()

    folder = fetch_checkpoint(f"{args.run}:outputs/checkpoints/", overwrite=True)
    for path in sorted(folder.rglob("*.ckpt")):
        checkpoint = read(path)
        checkpoint["state_dict"] = renamed(checkpoint["state_dict"], args.old, args.new)
        write(checkpoint, path)
        print(f"changed {path.name}")
    run = push_checkpoints([folder], args.run, experiment_name="changed_checkpoints")
    print(run.id)


def read(path: Path) -> dict[str, Any]:
    """With PyTorch: torch.load(path, map_location="cpu")."""
    checkpoint: dict[str, Any] = json.loads(path.read_text())
    return checkpoint


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """With PyTorch: torch.save(checkpoint, path)."""
    path.write_text(json.dumps(checkpoint))


def renamed(weights: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Rename the layer *old* in *weights* to *new*."""
    return {
        f"{new}.{name[len(old) + 1 :]}" if name.startswith(f"{old}.") else name: value
        for name, value in weights.items()
    }


if __name__ == "__main__":
    main()
