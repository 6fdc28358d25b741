"""Tests of the command `himl tiles`: output, refusals, interruptions, slides of a datastore, and jobs on the double of
Azure ML.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.azureml_double.seeding import StagedWorkspace
from tests.slides.test_montage_azure import CLUSTER, lab, running
from tests.support.azure import DEFAULT
from tests.support.folders import contents
from tests.support.montages import four_slides
from tests.support.running import Himl, until, write_files
from tests.support.slides import slide_picture, write_broken, write_mask, write_tiff

__all__ = ["lab", "running"]
SIZE = ("--tile_size", "100", "--occupancy", "0")


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    return four_slides(tmp_path / "slides")


def rows_of(folder: Path, name: str = "dataset.csv") -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_slides_become_folders_of_tiles_and_two_lists(himl: Himl, project: Path, slides: Path) -> None:
    write_mask(slides / "mask.png", seed=4)
    write_files(slides, {"dataset.csv": "slide_id,image,label,mask\nfour,more/d.tiff,tumour,mask.png\none,a.tiff,,\n"})
    done = himl.ok("tiles", slides, *SIZE, "--overview", "--image_format", "jpg")
    out = project / "outputs"
    assert done.stdout.startswith(f"{os.path.join('outputs', 'dataset.csv')}  ")
    rows = rows_of(out)
    assert [*rows[0]] == ["slide_id", "tile_id", "image", "left", "top", "right", "bottom", "label", "occupancy"]
    assert [[*row.values()][:8] for row in (rows[0], rows[-1])] == [
        ["four", "four.00000x_00000y", "four/00000x_00000y.jpg", "0", "0", "100", "100", "tumour"],
        ["one", "one.00500x_00400y", "one/00500x_00400y.jpg", "500", "400", "600", "500", ""],
    ]
    assert [(row["slide_id"], row["tiles"], row["status"]) for row in rows_of(out, "slides.csv")] == [
        ("four", "30", "ok"),
        ("one", "30", "ok"),
    ]
    assert [(row["slide_id"], row["image"], row["status"]) for row in rows_of(out / "overview", "montage.csv")] == [
        ("four", "four/overview.jpg", "ok"),
        ("one", "one/overview.jpg", "ok"),
    ]
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.jpg") if "montage_files" not in path.parts} == {
        row["image"] for row in rows
    } | {
        "four/overview.jpg",
        "one/overview.jpg",
    }
    before = contents(out)
    assert (
        "60 tiles of 2 slides, 2 of them already complete"
        in himl.ok("tiles", slides, *SIZE, "--overview", "--image_format", "JPG").stdout
    )
    assert contents(out) == before
    assert (
        himl.ok("tiles", slides, *SIZE, "-q", "--include_by_slide_id", write(project, "ids.txt", "one\n")).stdout
        == done.stdout.partition("  ")[0] + "\n"
    )
    assert {row["slide_id"] for row in rows_of(out)} == {"one"}
    write_broken("empty", slides)
    masked = himl(
        "tiles", slides / "dataset.csv", "--masks", "--tile_size", "100", "--occupancy", "0.9", "--strict", "--json"
    )
    document = masked.json()
    assert (masked.code, document["failed"]) == (1, 1)
    assert [(slide["slide_id"], slide["reason"]) for slide in document["slides"] if slide["reason"]] == [
        ("one", "it has no mask")
    ]
    assert document["tiles"] == len(rows := rows_of(out)) < 30
    assert all(float(row["occupancy"]) >= 0.9 for row in rows)
    said = himl("tiles", slides, "--image_glob", "*.tiff", *SIZE, "--overview").stderr
    assert "not read: 'empty.tiff': it is empty" in said
    (failed,) = (row for row in rows_of(out / "overview", "montage.csv") if row["status"] == "failed")
    assert (failed["slide_id"], failed["reason"]) == ("empty.tiff", "it is empty")
    assert (out / "overview" / "index.html").is_file()


def write(folder: Path, name: str, text: str) -> Path:
    write_files(folder, {name: text})
    return folder / name


@pytest.mark.parametrize("options", [(), ("--image_format", "jpg", "--max_tiles", "7"), ("--format", "tar")])
def test_a_dry_run_counts_tiles_and_bytes_and_writes_nothing(
    options: tuple[str, ...], himl: Himl, project: Path, slides: Path
) -> None:
    write_broken("empty", slides)
    before = contents(project)
    options = (*SIZE, "--image_glob", "*.tiff", *options)
    said = himl.ok("tiles", slides, *options, "--dry_run")
    assert ["a.tiff", "7" if "--max_tiles" in options else "30"] in [
        line.split()[:2] for line in said.stdout.splitlines()
    ]
    assert "Nothing was written." in said.stdout
    assert "not read: 'empty.tiff': it is empty" in said.stderr
    if "--format" in options:
        assert contents(project) == before
        return
    counted = himl.ok("tiles", slides, *options, "--dry_run", "--json").json()
    assert (counted["dataset"], contents(project)) == (None, before)
    made = himl.ok("tiles", slides, *options, "--json").json()
    assert made["slides"] == counted["slides"]
    assert (made["tiles"], made["failed"]) == (counted["tiles"], 1)
    sizes = {
        slide["slide_id"]: sum(path.stat().st_size for path in (project / "outputs" / slide["folder"]).glob("*x_*"))
        for slide in made["slides"]
    }
    assert {slide["slide_id"]: slide["bytes"] for slide in counted["slides"]} == sizes


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("nowhere",), 3, "There is no folder or CSV 'nowhere'."),
        (("slides", "--level", "1", "--magnification", "20"), 2, "--level and --magnification cannot be combined."),
        (("slides", "--tile_size", "0"), 2, "--tile_size must be a number from 1 to 8,192, not 0."),
        (("slides", "--overlap", "224"), 2, "--overlap must be a number from 0 to 223, not 224."),
        (("slides", "--occupancy", "5"), 2, "--occupancy must be a number from 0 to 1, not 5.0."),
        (("slides", "--magnification", "nan"), 2, "--magnification must be a positive number, such as 20, not nan."),
        (("slides", "--max_tiles", "0"), 2, "--max_tiles must be a positive integer, not 0."),
        (("slides", "--regions", "nowhere"), 2, "--regions: there is no file or folder 'nowhere'."),
        (("slides", "--regions", "taken"), 2, "--regions 'taken' has no regions."),
        (
            ("slides", "--regions", "taken/a.tiff/mine.txt"),
            2,
            "--regions: 'taken/a.tiff/mine.txt' is neither GeoJSON nor XML.",
        ),
        (("slides", "--regions", "e.xml"), 2, "--regions: 'e.xml' has neither ASAP's nor Aperio's annotations."),
        (
            ("slides", "--regions", "e.geojson"),
            2,
            "--regions 'e.geojson': none of the slides has a region. There are regions of 'e'.",
        ),
        (("slides", "--seed", "1"), 2, "--seed is for the choice of --max_tiles."),
        (("slides", "--image_format", "jpeg"), 2, "--image_format cannot be 'jpeg'."),
        (("slides", "--output_path", "taken"), 2, "'taken/a.tiff' is not a folder of tiles, and would be replaced."),
        (
            ("slides", "--cluster", "cpu", "--output_path", "taken"),
            2,
            "--output_path is only for local use. A job saves files as outputs of its run.",
        ),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    himl: Himl, project: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    four_slides(project / "slides")
    area = '{"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}'
    write_files(project, {"taken/a.tiff/mine.txt": "mine", "e.xml": "<a/>", "e.geojson": area})
    before = contents(project)
    done = himl("tiles", *options)
    assert (done.code, done.stdout, done.stderr.splitlines()[0]) == (
        code,
        "",
        f"error: {said}".replace("/", os.sep if "taken/" in said else "/"),
    )
    assert contents(project) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
@pytest.mark.large("cuts slides twelve times")
@pytest.mark.parametrize(("number", "form"), [(signal.SIGKILL, "tar"), (signal.SIGTERM, "files")])
def test_killed_and_resumed_it_leaves_the_same_bytes(
    started_himl: Himl, project: Path, number: signal.Signals, form: str
) -> None:
    himl = started_himl
    for seed in range(12):
        write_tiff(make(project / "slides") / f"{seed:02}.tiff", slide_picture(seed, (1000, 1000)), levels=2)
    command = ("tiles", "slides", "--tile_size", "64", "--occupancy", "0", "--format", form)
    himl.ok(*command, "--output_path", "whole")
    out = project / "outputs"
    with himl.start(*command, "--workers", "1") as process:
        until(lambda: any(out.glob("*.tiff")) or process.poll() is not None)
        process.send_signal(number)
        said = process.communicate(timeout=100)
    assert process.returncode == (130 if number == signal.SIGTERM else -number), said
    assert not (out / "dataset.csv").exists()
    complete = len([*out.glob("*.tiff")])
    assert 0 < complete < 12
    assert f"{complete} of them already complete" in himl.ok(*command).stdout
    assert contents(out) == contents(project / "whole")
    assert sorted(path.name for path in out.iterdir()) == [
        "00.tiff",
        *(f"{seed:02}.tiff" for seed in range(1, 12)),
        "dataset.csv",
        "slides.csv",
    ]


def make(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.large("cuts slides three times")
def test_datastores_and_jobs_give_the_same_tiles(
    himl: Himl, running: StagedWorkspace, project: Path, slides: Path
) -> None:
    area = '{"type": "Polygon", "coordinates": [[[0, 0], [450, 0], [450, 450], [0, 450], [0, 0]]]}'
    write_files(project, {f"regions/{path.stem}.json": area for path in slides.rglob("*.*")})
    options = (*SIZE, "--overlap", "20", "--image_glob", "**/*.[ts]*", "--regions", "regions")
    himl.ok("tiles", slides, *options, "--output_path", "here")
    himl.ok("tiles", "scans", "--datastore", DEFAULT, *options, "--output_path", "there")
    run_id = himl.ok("tiles", "scans", "--datastore", DEFAULT, *options, *CLUSTER, "--wait", "-q").stdout.strip()
    himl.ok("download", run_id)
    made = [
        contents(folder) for folder in (project / "here", project / "there", project / "outputs" / run_id / "outputs")
    ]
    tiles = [{name: content for name, content in each.items() if not name.endswith(".json")} for each in made]
    assert tiles[0] == tiles[1] == tiles[2]
    assert {row["inside"] for row in rows_of(project / "here")} >= {"1.0"}
    with Image.open(project / "here" / "a.tiff" / "00000x_00000y.png") as image:
        assert np.asarray(image).shape == (100, 100, 3)
    assert himl.ok("runs", "show", run_id, "--json").json()["experiment"] == "tiles"
