"""`himl tb` as its user sees it: TensorBoard's page in a real browser."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.browser import browser as browser
from tests.support.browser import page as page
from tests.support.running import Himl, until
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, event_bytes, serving

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")

SLOW, FAST, NEW = ([1 / (1 + rate * step) for step in range(40)] for rate in (0.02, 0.3, 0.08))
TRIALS = [{"lr": 0.1, "depth": 2}, {"lr": 0.01, "depth": 2}]
PATIENCE = 30_000  # milliseconds, as Playwright counts
ENOUGH_DOTS = 50


def sees(page: Page, last_values: Mapping[str, float]) -> None:
    """The list of runs has exactly these, and the card of `loss` has the last value of each beside its curve."""
    from playwright.sync_api import expect

    listed, card = page.locator("runs-data-table tb-data-table-content-row"), page.locator("scalar-card", has_text="loss")
    expect(listed).to_have_count(len(last_values), timeout=PATIENCE)
    for run, value in last_values.items():
        row = card.locator("tb-data-table-content-row", has_text=run)
        expect(row).to_contain_text(f"{value:.4f}", timeout=PATIENCE)
    colours = {run: colour_of(listed.filter(has_text=run).locator("button.run-color-swatch")) for run in last_values}
    assert len(set(colours.values())) == len(colours)
    until(lambda: all(count > ENOUGH_DOTS for count in dots(card, colours.values())), f"a curve is drawn in each of {colours}")


def colour_of(swatch: Locator) -> tuple[int, ...]:
    style = swatch.evaluate("element => getComputedStyle(element).backgroundColor")
    return tuple(map(int, re.findall(r"\d+", style)))[:3]


def dots(card: Locator, colours: Collection[tuple[int, ...]]) -> list[int]:
    """How many dots of the chart have each colour."""
    from PIL import Image

    picture = Image.open(BytesIO(card.locator("line-chart").screenshot())).convert("RGB")
    counts = {colour: count for count, colour in picture.getcolors(picture.width * picture.height) or []}
    return [counts.get(colour, 0) for colour in colours]


def free_port() -> int:
    with socket.socket() as anywhere:
        anywhere.bind(("127.0.0.1", 0))
        return int(anywhere.getsockname()[1])


def test_local_and_azure_runs_show_and_new_one_after_reload(himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path, page: Page) -> None:
    azure = azure_environment
    azure.write_config(project)
    azure.put_artifact(azure.add_run("train_1_aa", "train", display_name="Slow start"), f"logs/{NAME}", event_bytes(SLOW))
    RecordedRuns(project).add("train_2_bb", display_name="Fast", files={f"logs/{NAME}": event_bytes(FAST)})
    port = free_port()
    with serving(himl, tmp_path, "--experiment", "train", "--num_runs", "all", "--port", str(port)) as board:
        assert board.line == f"TensorBoard: http://localhost:{port}/\n"
        there, here = "Slow_start-train_1_aa", "Fast-train_2_bb"
        until(lambda: bool(board.values(there) and board.values(here)), "both are read")
        page.goto(board.url)
        sees(page, {there: SLOW[-1], here: FAST[-1]})
        azure.put_artifact(azure.add_run("train_3_cc", "train", status="Running", display_name="Third"), f"logs/{NAME}", event_bytes(NEW))
        until(lambda: bool(board.values("Third-train_3_cc")), "the third is read")
        page.reload()
        sees(page, {there: SLOW[-1], here: FAST[-1], "Third-train_3_cc": NEW[-1]})
        keep_picture(page, "three_runs")
        assert board.end() == 0


def test_trials_of_a_sweep_are_called_by_their_values(himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path, page: Page) -> None:
    azure = azure_environment
    azure.write_config(project)
    add_sweep(azure, "tune_1_aa", TRIALS)
    for number, curve in enumerate((FAST, SLOW)):
        azure.put_artifact(azure.state.runs[f"tune_1_aa_{number}"], f"logs/{NAME}", event_bytes(curve))
    with serving(himl, tmp_path, "--run", "tune_1_aa") as board:
        until(lambda: len(board.ask("data/runs") or ()) == len(TRIALS), "both trials are read")
        page.goto(board.url)
        keep_picture(page, "sweep")
        listed = page.locator("runs-data-table tb-data-table-content-row")
        listed.nth(1).wait_for()
        names = listed.all_inner_texts()
        named = {name: curve for curve, values in zip((FAST, SLOW), TRIALS, strict=True) for name in names if calls(name, values)}
        assert sorted(named) == sorted(names)
        sees(page, {name.strip(): curve[-1] for name, curve in named.items()})
        keep_picture(page, "sweep")
        assert board.end() == 0


def calls(name: str, values: Mapping[str, float]) -> bool:
    """Whether the run's name says these hyperparameters."""
    return all(re.search(rf"\b{key}={re.escape(str(value))}(?![\d.])", name.replace("_", " ")) for key, value in values.items())


def keep_picture(page: Page, name: str) -> None:
    """Where HIML_TEST_PICTURES names a folder."""
    folder = os.environ.get("HIML_TEST_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")
