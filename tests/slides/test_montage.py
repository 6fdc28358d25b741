"""Tests of `himl montage` on real slides: the pixels of its pictures, what it refuses, and interruptions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from himl_cli.core.installation import install_command
from tests.support.folders import contents
from tests.support.montages import SEEDS, difference, four_slides, left_in, picture_box, pixels_of, rows_of
from tests.support.running import Himl, until, write_files
from tests.support.slides import slide_picture, write_broken, write_mask, write_tiff

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and terminals of POSIX")


@pytest.fixture
def slides(project: Path) -> Path:
    return four_slides(project / "slides")


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_folder_becomes_two_pictures_and_a_record(himl: Himl, project: Path, slides: Path) -> None:
    """The command uses no workspace, so a broken configuration or being inside an Azure ML job makes no difference."""
    write_files(project, {"config.json": "{", "himl.toml": '[submit]\ncluster = "gpu"'})
    before, job = (
        set(project.iterdir()),
        {"AZUREML_RUN_ID": "run_1", "AZUREML_ARM_SUBSCRIPTION": "x", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )
    done = himl.ok("montage", "slides", "--width", "900", env=job)
    out = project / "outputs"
    assert set(project.iterdir()) - before == {out}
    assert left_in(out) == ["montage.csv", "montage.jpg", "montage.png"]
    rows = rows_of(out)
    images = {"a.tiff": "a.tiff", "b.svs": "b.svs", "c.png": "c.png", "d.tiff": "more/d.tiff"}
    assert [(row["slide_id"], row["image"], row["status"]) for row in rows] == [
        (*each, "ok") for each in images.items()
    ]
    for suffix, tolerance in (("png", 6.0), ("jpg", 8.0)):
        montage = pixels_of(out / f"montage.{suffix}")
        assert montage.shape[1] == 900
        for row in rows:
            assert difference(montage, row, slide_picture(SEEDS[row["slide_id"]])) < tolerance
            assert (
                min(
                    difference(montage, row, slide_picture(seed))
                    for name, seed in SEEDS.items()
                    if name != row["slide_id"]
                )
                > 2 * tolerance
            )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [
        os.path.join("outputs", f"montage.{suffix}") for suffix in ("png", "jpg", "csv")
    ]
    assert f"900 x {montage.shape[0]:,}" in lines[0]
    assert lines[3].startswith("4 slides in ")
    assert done.stderr == "", "a plain picture has no levels that it could lack"


def test_a_csv_has_labels_masks_and_its_own_order(himl: Himl, project: Path, slides: Path) -> None:
    write_mask(slides / "mask_d.png", seed=4)
    write_files(
        slides, {"dataset.csv": "slide_id,image,label,mask\nfour,more/d.tiff,tumour,mask_d.png\none,a.tiff,,\n"}
    )
    done = himl.ok("montage", "slides", "--dataset", "slides", "--width", "1200", "--image_format", "png")
    assert "dataset.csv" in done.stderr
    rows, montage = rows_of(project / "outputs"), pixels_of(project / "outputs" / "montage.png")
    assert [(row["slide_id"], row["label"], row["mask"]) for row in rows] == [
        ("four", "tumour", "mask_d.png"),
        ("one", "", ""),
    ]
    assert difference(montage, rows[0], slide_picture(4)) < 6
    _, upper, right, lower = picture_box(rows[0])
    beside = montage[upper:lower, right : int(rows[0]["x"]) + int(rows[0]["width"])]
    assert len(np.unique(beside.reshape(-1, 3), axis=0)) >= 6, "each label of the mask can be told from the others"
    quiet = himl.ok("montage", slides / "dataset.csv", "--width", "300", "-q")
    assert quiet.stdout.splitlines() == [
        os.path.join("outputs", f"montage.{suffix}") for suffix in ("png", "jpg", "csv")
    ]
    assert quiet.stderr == ""


def test_hi_ml_option_names_work_and_cluster_ones_are_noted(himl: Himl, project: Path, slides: Path) -> None:
    old = (
        "--image_glob_pattern",
        "**/*.tiff",
        "--parallel",
        "2",
        "--backend",
        "OpenSlide",
        "--docker_shm_size",
        "10g",
        "--wait_for_completion",
    )
    options = ("--workspace_config_path", "nowhere.json", "--width", "300", "--image-format", "JPG")
    done = himl.ok("montage", "--dataset", slides, *old, *options)
    assert [(row["slide_id"], row["backend"]) for row in rows_of(project / "outputs")] == [
        ("a.tiff", "openslide"),
        ("d.tiff", "openslide"),
    ]
    assert done.stderr == "Ignored without --cluster: --shm_size, --wait.\n"
    assert left_in(project / "outputs") == ["montage.csv", "montage.jpg"]
    (project / "ids.txt").write_text("d.tiff\n")
    for option, shown in {"--include_by_slide_id": "d.tiff", "--exclude_by_slide_id": "a.tiff"}.items():
        himl.ok("montage", slides, *options, "--image_glob", "**/*.tiff", option, "ids.txt")
        assert [row["slide_id"] for row in rows_of(project / "outputs")] == [shown]


@pytest.mark.large("draws large pictures")
def test_without_a_width_pictures_are_as_large_as_they_are(himl: Himl, project: Path, slides: Path) -> None:
    """Four times 400 x 300 pixels make a picture of 1,300 pixels, not 60,000.

    himl warns if it enlarges slides a lot, and suggests a width.
    """
    for seed in range(4):
        (project / "four").mkdir(exist_ok=True)
        Image.fromarray(slide_picture(seed, (400, 300))).save(project / "four" / f"{seed}.png")
    command = ("montage", "four", "--level", "0", "--image_format", "png")
    assert himl.ok(*command).stderr == ""
    montage = pixels_of(project / "outputs" / "montage.png")
    assert 1200 <= montage.shape[1] <= 1300
    for seed, row in enumerate(rows_of(project / "outputs")):
        left, upper, right, lower = picture_box(row)
        assert np.array_equal(montage[upper:lower, left:right], slide_picture(seed, (400, 300)))
    wide = himl.ok(*command, "--width", "4000").stderr
    assert wide.startswith(
        "The median slide is enlarged 3.3 times in width and height, which shows no more detail. To avoid "
        "that, omit --width.\n"
    )
    assert himl.ok(*command, "--width", "2400").stderr == ""
    layout = ("montage", "slides", "--layout", "hi-ml", "--image_format", "png")
    said = re.search(
        r"enlarged [\d.]+ times .* --width (\d+) shows as much", (done := himl.ok(*layout, "--width", "3000")).stderr
    )
    assert said is not None
    assert "For finer levels, use --level auto." in done.stderr
    assert {int(row["picture_width"]) / int(row["picture_height"]) for row in rows_of(project / "outputs")} == {2}
    assert not pixels_of(project / "outputs" / "montage.png")[:2].any(), "grid lines are black"
    assert "enlarged" not in himl.ok(*layout, "--width", said[1]).stderr


def test_unreadable_slides_are_listed_and_get_marked_cells(himl: Himl, project: Path, slides: Path) -> None:
    for kind, name in (("empty", None), ("garbage", None), ("zeroed", None), ("empty", "void")):
        write_broken(kind, slides, **({"name": name} if name else {}))
    for name in ("b.svs", "c.png"):
        (slides / name).unlink()
    out = project / "outputs"
    done = himl("montage", "slides", "--width", "900", "--strict")
    names = {"empty.tiff", "garbage.tiff", "zeroed.tiff", "void.tiff"}
    failed = {row["slide_id"]: row for row in rows_of(out) if row["status"] == "failed"}
    assert set(failed) == names
    assert all(row["reason"] for row in failed.values())
    lines = done.stderr.splitlines()
    assert lines[0].startswith("not read: 'empty.tiff', 'void.tiff': ")
    assert {line.split("'")[1] for line in lines[:3]} == names - {"void.tiff"}
    assert (done.code, lines[3]) == (1, "error: 4 slides or their masks were not read, and --strict allows no failure.")
    assert ("2 of 6 slides" in done.stdout, "4 not read" in done.stdout) == (True, True)
    montage = pixels_of(out / "montage.png")
    for row in failed.values():
        x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
        cell = montage[y : y + height, x : x + width]
        assert (cell < 250).any(), "it is no blank slide"
        assert (cell > 200).mean() > 0.5, "and no black one"
    assert himl("montage", "slides", "--width", "300", "--strict", "--image_glob", "[ad]*.tiff").code == 0
    done = himl(
        "montage", "slides", "--width", "1100", "--json", "--strict", "--image_format", "dzi", "--image_format", "png"
    )
    document = done.json()
    assert (done.code, json.loads(done.stderr.splitlines()[-1])["error"]["code"]) == (1, "slides_failed")
    sizes = {Path(file["path"]).name: file["bytes"] for file in document["files"]}
    tiles = [*(out / "montage_files").rglob("*.jpg")]
    assert len(tiles) > 4
    assert list(sizes) == ["montage.png", "index.html", "montage.dzi", "montage.csv"]
    assert sizes == {
        name: (out / name).stat().st_size + (name == "montage.dzi") * sum(tile.stat().st_size for tile in tiles)
        for name in sizes
    }
    assert (document["height"], document["width"]) == pixels_of(out / "montage.png").shape[:2]
    assert (document["slides"], {each["slide_id"] for each in document["failed"]}, document["seconds"] > 0) == (
        6,
        names,
        True,
    )
    assert "a.tiff" in (out / "index.html").read_text(encoding="utf-8")


def test_reader_logs_and_slide_levels_show_only_if_verbose(himl: Himl, project: Path) -> None:
    (project / "two").mkdir()
    write_broken("header-only", project / "two")
    write_tiff(project / "two" / "a.tiff", slide_picture(1, (60, 40)), levels=2)
    with tifffile.TiffFile(project / "two" / "a.tiff", mode="r+") as file:
        file.filehandle.seek(file.pages[0].tags["Software"].offset + 2)
        file.filehandle.write(b"\x63\x00")  # a type of values that does not exist
    assert (
        himl.ok("montage", "two", "--image_format", "png").stderr
        == "not read: 'header-only.tiff': the file is truncated: it ends at byte 8, but page 1 ends at 10\n"
    )
    verbose = himl.ok("montage", "two", "--image_format", "png", "-v").stderr
    assert "tifffile: <TiffTag.fromfile> raised" in verbose
    assert "'a.tiff': tifffile, level 1 of 2, 30 x 20 pixels" in verbose


BAD: Mapping[str, tuple[Sequence[str], int, str]] = {
    "no dataset": ((), 2, "DATASET is missing"),
    "empty dataset": ((" ",), 2, "DATASET got an empty value"),
    "two datasets": (("slides", "--dataset", "other"), 2, "DATASET 'slides' and --dataset 'other' differ."),
    "no such folder": (("nowhere",), 3, "'nowhere'"),
    "width 0": (("slides", "--width", "0"), 2, "--width must be a number of pixels from 1 to 1,000,000, not 0"),
    "width is a word": (("slides", "--width", "wide"), 2, "--width needs a number, not 'wide'"),
    "level is negative": (("slides", "--level", "-1"), 2, "--level must be an integer from 0, or 'auto', not '-1'"),
    "level without end": (("slides", "--level", "9" * 5000), 2, "--level must have at most 4 digits, not 5,000."),
    "no workers": (("slides", "--workers", "0"), 2, "--workers must be an integer from 1 to 256, not 0"),
    "unknown format": (
        ("slides", "--image_format", "png,jpgg"),
        2,
        "--image_format cannot be 'jpgg'. Did you mean 'jpg'?",
    ),
    "unknown backend": (
        ("slides", "--backend", "openslid"),
        2,
        "--backend cannot be 'openslid'. Did you mean 'openslide'?",
    ),
    "unknown layout": (("slides", "--layout", "himl"), 2, "--layout cannot be 'himl'. Did you mean 'hi-ml'?"),
    "output is a file": (("slides", "--output_path", "slides/c.png"), 2, "--output_path 'slides/c.png' is a file"),
    "output below a file": (("slides", "--output_path", "slides/c.png/x"), 1, "c.png"),
    "slurm": (
        ("slides", "--cluster", "slurm:gpu"),
        2,
        "--cluster slurm:gpu: this command runs on this machine or on Azure ML.",
    ),
    "output is empty": (("slides", "--output_path", ""), 2, "--output_path got an empty value"),
    "both lists": (("slides", "--include_by_slide_id", "a", "--exclude_by_slide_id", "b"), 2, "cannot be combined"),
    "no such option": (("slides", "--widht", "5"), 2, "Did you mean '--width'"),
    "cucim is not here": (("slides", "--backend", "cucim"), 2, "cucim"),
}


def test_what_cannot_be_is_one_line_and_leaves_nothing(himl: Himl, project: Path, slides: Path) -> None:
    before = contents(project)
    for case, (arguments, code, text) in BAD.items():
        done = himl("montage", *arguments)
        assert (done.code, done.stdout) == (code, ""), (case, done.stderr)
        lines = done.stderr.splitlines()
        assert lines[0].startswith("error: ")
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
        assert text in done.stderr.replace("\nhint: ", " ")
        assert contents(project) == before
        assert not (project / "outputs").exists()
    assert himl("montage", "nowhere", "--json").error_json()["message"]


def test_without_the_extra_it_is_said_how_to_get_it(project: Path) -> None:
    for module in ("numpy", "isal"):
        code = (
            f"import sys; sys.modules[{module!r}] = None; sys.argv = ['himl', 'montage', 'slides']; from "
            "himl_cli.app import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"error: A montage needs {module}, which is not installed.",
            f"hint: Install it: {install_command('montage')}",
        ]


@pytest.fixture
def long(project: Path) -> Path:
    """A project with a CSV file whose montage takes long: one slide, many times."""
    write_tiff(project / "slide.tiff", slide_picture(1, (800, 600)), levels=2)
    write_files(project, {"long.csv": "image,slide_id\n" + "".join(f"slide.tiff,s{number}\n" for number in range(150))})
    return project


@contextmanager
def in_the_middle(himl: Himl, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start himl, and wait until it has written a part of a picture. The process is killed at the end if it still
    runs.
    """

    def is_begun() -> bool:
        assert process.poll() is None, "it ended before it could be stopped"
        begun = {
            name: len(content)
            for name, content in contents(himl.folder).items()
            if name.startswith("outputs/.montage") and "/montage." in name
        }
        return max(begun.values(), default=0) > 200_000

    with himl.start("montage", "long.csv", "--width", "60000", "--workers", "2", *arguments) as process:
        try:
            until(is_begun)
            yield process
        finally:
            process.kill()


@pytest.mark.large("draws large pictures")
@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_in_the_middle_nothing_is_left(himl: Himl, long: Path, number: signal.Signals) -> None:
    before = left_in(long)
    with in_the_middle(himl) as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=100)
    assert (process.returncode, output, errors.splitlines()[1:]) == (130, b"", [b"error: Interrupted."]), (
        "after the remark on the width"
    )
    assert left_in(long) == before
    assert not (long / "outputs").exists()


@pytest.mark.large("draws large pictures")
@posix
def test_earlier_montage_stays_when_the_next_is_interrupted(himl: Himl, long: Path) -> None:
    himl.ok("montage", "long.csv", "--width", "1000", "--image_format", "png,dzi")
    earlier = contents(long)
    with in_the_middle(himl, "--image_format", "png,jpg,dzi") as process:
        other = himl("montage", "long.csv", "--width", "1000")
        assert (other.code, "Another himl montage is writing to 'outputs'" in other.stderr) == (1, True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert process.returncode == 130
    assert contents(long) == earlier


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_closed_stdout_pipe_is_no_error_and_montage_is_written(himl: Himl, project: Path, slides: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"'{himl.program}' montage slides --width 300 -q | true"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "montage.png" in left_in(project / "outputs")
