"""Draw the pictures of the guides into docs/pictures, from synthetic slides, a training script and recorded runs.

    scripts/generate pictures     montage.jpg, montage_page.png, tiles.jpg, crossval.svg, tensorboard.png, ui.png and
                                  ui_run.png

The Chromium or Chrome of this machine takes the screenshots.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.montage import make_slides
from himl_cli.core.sweeps import HYPERPARAMETERS, MANY
from himl_cli.workspaces.local.tracking.protocol import experiment_number
from tests.support.browser import OPTIONS, chromium
from tests.support.runs import RecordedRuns
from tests.support.slides import mask_picture, slide_picture, write_tiff
from tests.support.tensorboard import NAME, event_bytes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DOCS = Path(__file__).parents[1]
PICTURES = DOCS / "pictures"
SIZES = ((1200, 900), (1200, 700), (800, 960), (1150, 860), (1200, 600), (1000, 830))
"""Width and height of the slides in pixels, used in turn."""
LABELS = ("benign", "tumour", "ISUP 4")
SLIDES = 14
MISSING, EMPTY, CUT = 5, 9, 12
"""Numbers of the slides that cannot be read."""
UNMASKED = 4
TRIALS = [(lr, depth) for lr in (0.1, 0.03, 0.01) for depth in (2, 4)]
SWEEP = "sweep_1772366400_0a1b2c3d"
STEPS = 80
MACHINE = {
    "cpu_utilization_percentage": (20, 45),
    "system_memory_usage_megabytes": (900, 2400),
    "gpu_0_utilization_percentage": (5, 88),
    "gpu_0_memory_usage_megabytes": (600, 10_400),
    "gpu_0_power_usage_watts": (60, 210),
}
"""System metrics: the minimum, and the rise above it."""


def main() -> int:
    program = chromium()
    if program is None:
        sys.stderr.write("This needs Chromium or Chrome, and neither is installed.\n")
        return 1
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="himl-") as name, sync_playwright() as playwright:
        folder = Path(name)
        draw_crossval(folder / "crossval")
        draw_tiles(folder / "tiles")
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS), chromium_sandbox=False)
        draw_montage(folder / "montage", browser)
        draw_tensorboard(folder / "board", browser)
        draw_ui(folder / "ui", browser)
        browser.close()
    return 0


def draw_crossval(folder: Path) -> None:
    """Draw the cross-validation of docs/many-runs.md, with the script on that page."""
    folder.mkdir()
    script = re.search(
        r"^```python\n(.*?)^```", (DOCS / "many-runs.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert script is not None
    (folder / "train.py").write_text(script[1], encoding="utf-8")
    himl(folder, "submit", "train.py", "--crossval", "5", "-q")
    himl(folder, "runs", "aggregate", "--metrics", "val/loss", "--plot", "crossval.svg")
    shutil.copy(folder / "crossval.svg", PICTURES)


def draw_montage(folder: Path, browser: Browser) -> None:
    """Draw a montage of slides with masks and labels, three of which cannot be read, and its page with a search."""
    slides = folder / "slides"
    slides.mkdir(parents=True)
    with (slides / "dataset.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "slide_id", "label", "mask"))
        for number in range(SLIDES):
            mask = "" if number == UNMASKED else f"{number}_mask.tiff"
            table.writerow(
                (f"{number}.tiff", f"TCGA-{number:02d}-A{number * 7 % 10}Z{number * 3 % 10}", LABELS[number % 3], mask)
            )
            write_slide(slides, number)
    himl(folder, "montage", "slides", "--width", "2400", "--image_format", "dzi,jpg", "--output_path", "wide")
    himl(folder, "montage", "slides", "--width", "1200", "--image_format", "jpg", "--output_path", "narrow")
    with Image.open(folder / "narrow" / "montage.jpg") as image:
        image.save(PICTURES / "montage.jpg", quality=80)
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.goto((folder / "wide" / "index.html").as_uri())
    page.get_by_role("combobox").fill("tum")
    page.get_by_role("option").first.wait_for()
    # Wait until all tiles are visible.
    page.wait_for_timeout(2000)
    keep(page, "montage_page")


def draw_tiles(folder: Path) -> None:
    """Draw the overview of a slide of the benchmarks, which looks like real tissue."""
    make_slides(folder / "slides", 1)
    himl(folder, "tiles", "slides", "--tile_size", "256", "--overview")
    with Image.open(folder / "outputs" / "slide_000.tiff" / "overview.jpg") as image:
        image.resize((1024, 768)).save(PICTURES / "tiles.jpg", quality=80)


def write_slide(slides: Path, number: int) -> None:
    size = SIZES[number % len(SIZES)]
    write_tiff(slides / f"{number}_mask.tiff", mask_picture(number, size), levels=2, compression="deflate")
    path = slides / f"{number}.tiff"
    if number != MISSING:
        write_tiff(path, slide_picture(number, size), levels=2)
    if number == EMPTY:
        path.write_bytes(b"")
    if number == CUT:
        os.truncate(path, path.stat().st_size // 2)


def draw_tensorboard(folder: Path, browser: Browser) -> None:
    """Draw TensorBoard with the six trials of a sweep and synthetic curves."""
    folder.mkdir()
    runs = RecordedRuns(folder)
    runs.add(SWEEP, experiment="sweep", tags={MANY: "sweep"})
    for number, (lr, depth) in enumerate(TRIALS):
        events = b"".join(
            event_bytes(curve(tag, lr, depth, number), f"metrics/{tag}")
            for tag in ("train_loss", "val_loss", "val_accuracy")
        )
        tags = {HYPERPARAMETERS: json.dumps({"lr": lr, "depth": depth})}
        runs.add(f"{SWEEP}_{number}", experiment="sweep", parent=SWEEP, tags=tags, files={f"logs/{NAME}": events})
    with board(folder) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 760}, reduced_motion="reduce")
        page.goto(address)
        page.locator("runs-data-table tb-data-table-content-row").nth(len(TRIALS) - 1).wait_for()
        # Close the settings, which hide a curve.
        page.get_by_role("button", name="Settings").last.click()
        # Wait until all curves are visible.
        page.wait_for_timeout(3000)
        keep(page, "tensorboard")


def draw_ui(folder: Path, browser: Browser) -> None:
    """Draw the same trials in MLflow's interface, and the system metrics of one of them."""
    folder.mkdir()
    runs = RecordedRuns(folder)
    runs.add(SWEEP, experiment="sweep", tags={MANY: "sweep"})
    rng = np.random.default_rng(0)
    for number, (lr, depth) in enumerate(TRIALS):
        name = f"{SWEEP}_{number}"
        runs.add(
            name,
            experiment="sweep",
            parent=SWEEP,
            display_name=f"lr={lr} depth={depth}",
            tags={HYPERPARAMETERS: json.dumps({"lr": lr, "depth": depth})},
        )
        curves = {tag: curve(tag, lr, depth, number) for tag in ("train_loss", "val_loss", "val_accuracy")}
        for machine, (least, spread) in MACHINE.items():
            curves[f"system/{machine}"] = [
                least + spread * (1 - math.exp(-step / 4)) * float(rng.uniform(0.8, 1)) for step in range(40)
            ]
        runs.log(
            name,
            [
                (tag, value, step, 1_772_366_400_000 + step * 10_000)
                for tag, values in curves.items()
                for step, value in enumerate(values)
            ],
        )
    with board(folder, "ui") as address:
        page = browser.new_page(viewport={"width": 1400, "height": 860}, reduced_motion="reduce", timezone_id="UTC")
        experiment = experiment_number("sweep")
        page.goto(f"{address}#/experiments/{experiment}/runs?compareRunsMode=CHART")
        # Expand the sweep.
        page.locator("[data-component-id*=runnamecellrenderer]").first.click()
        page.mouse.move(0, 0)
        page.locator(".js-plotly-plot").nth(2).wait_for()
        # Wait until all curves are visible.
        page.wait_for_timeout(4000)
        keep(page, "ui")
        page.goto(f"{address}#/experiments/{experiment}/runs/{SWEEP}_0/system-metrics")
        page.locator(".js-plotly-plot").nth(2).wait_for()
        page.wait_for_timeout(4000)
        keep(page, "ui_run")


def keep(page: Page, name: str) -> None:
    """Save a screenshot in 256 colours, a third of the bytes."""
    with Image.open(BytesIO(page.screenshot())) as image:
        image.convert("RGB").quantize(256).save(PICTURES / f"{name}.png", optimize=True)


def curve(tag: str, lr: float, depth: int, seed: int) -> list[float]:
    """Return synthetic values of a trial, one per step."""
    noise = np.random.default_rng(seed).normal(0, 0.01, STEPS)
    falling = [0.12 + 0.9 * math.exp(-lr * (0.8 + 0.1 * depth) * step) + float(noise[step]) for step in range(STEPS)]
    return (
        [max(0.0, 1 - value) for value in falling]
        if tag == "val_accuracy"
        else [value + 0.05 * (tag == "val_loss") for value in falling]
    )


@contextmanager
def board(folder: Path, *command: str) -> Iterator[str]:
    """Run `himl tb` for the sweep, or another *command* that serves a page, and yield the address of the page."""
    with subprocess.Popen(
        words(*(command or ("tb", SWEEP)), "--port", "0"),
        cwd=folder,
        env=variables(folder),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def himl(folder: Path, *arguments: str) -> None:
    subprocess.run(words(*arguments), cwd=folder, env=variables(folder), check=True, stdout=subprocess.DEVNULL)


def words(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("himl")), *arguments]


def variables(folder: Path) -> dict[str, str]:
    """Return environment variables that contain only PATH of the user's environment. *folder* is not the home
    folder, whose snapshot himl refuses.
    """
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(folder.parent),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
    }


if __name__ == "__main__":
    sys.exit(main())
