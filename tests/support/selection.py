"""The small set: every test that is not marked `large`, by itself, by a fixture or by its place, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.spreading import STARTS_CHROMIUM, STARTS_SLURM, is_patient

SMALL = "not large"
"""The expression of pytest's option `-m` that selects the small set."""
FIXTURES: Mapping[str, str] = {
    "browser": STARTS_CHROMIUM,
    "cluster": STARTS_SLURM,
    "lightning_packages": "installs PyTorch",
    "nvml": "needs a C compiler",
    "shared_disk": "needs a C compiler and FUSE",
}
"""Tests that use one of these fixtures are large."""
_PICTURES = ("montage_azure", "montage_page")
PLACES: Mapping[str, str] = {
    "tests/api/test_lightning.py": "installs PyTorch",
    "tests/api/test_mlflow.py": "starts MLflow's clients",
    "tests/azure/": "starts the vendor's clients",
    "tests/azureml_double/tests/": "tests the double itself",
    "tests/commands/test_slurm.py": STARTS_SLURM,
    "tests/commands/test_ui.py": "starts MLflow's server and Chromium",
    "tests/completions/": "starts shells",
    "tests/docs/": "runs the blocks of the documents",
    "tests/guards/test_requests.py": "counts the requests of all commands",
    "tests/guards/test_work.py": "counts function calls",
    "tests/project/": "checks pages, examples and packages",
    **dict.fromkeys((f"tests/slides/test_{name}.py" for name in _PICTURES), "draws many pictures"),
    "tests/stress/": "runs stress cases",
    "tests/workspaces/tracking/test_clients.py": "installs MLflow's clients",
}
"""Tests in files whose path begins with one of these are large. The small set does not import these files."""


def is_left_out(path: Path, config: pytest.Config) -> bool:
    """Whether no test of the file or folder *path* is selected because of its place."""
    return config.option.markexpr == SMALL and _of_place(path, config) != ""


def mark(item: pytest.Item) -> None:
    """Mark *item* if its fixtures or its place make it large. Raises UsageError for a mark without a reason."""
    for marker in item.iter_markers("large"):
        if not (len(marker.args) == 1 and isinstance(marker.args[0], str) and marker.args[0] and not marker.kwargs):
            raise pytest.UsageError(f"{item.nodeid}: the marker needs a reason: @pytest.mark.large('starts Slurm')")
    reasons = [reason for name, reason in FIXTURES.items() if name in getattr(item, "fixturenames", ())]
    reasons += [_of_place(item.path, item.config)] + ["may install a client"] * is_patient(item)
    for reason in filter(None, reasons):
        item.add_marker(pytest.mark.large(reason))


def _of_place(path: Path, config: pytest.Config) -> str:
    place = (
        f"{path.relative_to(config.rootpath).as_posix()}{'/' * path.is_dir()}"
        if path.is_relative_to(config.rootpath)
        else ""
    )
    return next((reason for prefix, reason in PLACES.items() if place.startswith(prefix)), "")
