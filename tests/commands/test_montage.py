"""`himl montage` through the installed program, with real slides; pictures are opened and compared by their pixels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himl_cli.services.montage.threads import cores
from tests.support.montages import SEEDS, difference, four_slides, left_in, picture_box, pixels_of, rows_of
from tests.support.running import Himl, write_files
from tests.support.slides import SIZE, mask_picture, not_utf8_name, slide_picture, write_broken, write_mask, write_tiff

WIDTH = 900


@pytest.fixture
def slides(project: Path) -> Path:
    return four_slides(project / "slides")


def test_a_folder_becomes_two_pictures_and_a_record(himl: Himl, project: Path, slides: Path) -> None:
    done = himl.ok("montage", "slides", "--width", str(WIDTH))
    out = project / "outputs"
    assert left_in(out) == ["montage.csv", "montage.jpg", "montage.png"]
    rows = rows_of(out)
    assert [(row["slide_id"], row["image"], row["status"]) for row in rows] == [
        ("a.tiff", "a.tiff", "ok"),
        ("b.svs", "b.svs", "ok"),
        ("c.png", "c.png", "ok"),
        ("d.tiff", "more/d.tiff", "ok"),
    ]
    for suffix, tolerance in (("png", 6.0), ("jpg", 8.0)):
        montage = pixels_of(out / f"montage.{suffix}")
        assert montage.shape[1] == WIDTH
        for row in rows:
            assert difference(montage, row, slide_picture(SEEDS[row["slide_id"]])) < tolerance
            others = [difference(montage, row, slide_picture(seed)) for name, seed in SEEDS.items() if name != row["slide_id"]]
            assert min(others) > 2 * tolerance
    height = pixels_of(out / "montage.png").shape[0]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [os.path.join("outputs", f"montage.{suffix}") for suffix in ("png", "jpg", "csv")]
    assert f"{WIDTH} x {height:,}" in lines[0]
    assert lines[3].startswith("4 slides in ")
    assert done.stderr == "Level 1 is missing in one slide: the nearest one was read. The column 'remark' of montage.csv tells which.\n"


def test_nothing_else_is_made_and_no_workspace_is_asked(himl: Himl, project: Path, slides: Path) -> None:
    """Neither a broken configuration nor being inside a job of Azure ML makes a difference."""
    write_files(project, {"config.json": "{", "himl.toml": '[submit]\ncluster = "gpu"'})
    before = set(project.iterdir())
    job = {"AZUREML_RUN_ID": "run_1", "AZUREML_ARM_SUBSCRIPTION": "x", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    himl.ok("montage", slides, "--width", "300", env=job)
    assert set(project.iterdir()) - before == {project / "outputs"}


def test_a_csv_has_labels_masks_and_its_own_order(himl: Himl, project: Path, slides: Path) -> None:
    write_mask(slides / "mask_d.png", seed=4)
    write_files(slides, {"dataset.csv": "slide_id,image,label,mask\nfour,more/d.tiff,tumour,mask_d.png\none,a.tiff,,\n"})
    done = himl.ok("montage", "slides", "--dataset", "slides", "--width", "1200", "--image_format", "png")
    assert "dataset.csv" in done.stderr
    rows = rows_of(project / "outputs")
    assert [(row["slide_id"], row["label"], row["mask"]) for row in rows] == [("four", "tumour", "mask_d.png"), ("one", "", "")]
    montage = pixels_of(project / "outputs" / "montage.png")
    _, upper, right, lower = picture_box(rows[0])
    assert difference(montage, rows[0], slide_picture(4)) < 6
    box_right = int(rows[0]["x"]) + int(rows[0]["width"])
    assert right <= (int(rows[0]["x"]) + box_right) // 2, "the mask stands right of its image"
    beside = montage[upper:lower, right:box_right]
    assert len(np.unique(beside.reshape(-1, 3), axis=0)) >= len(np.unique(mask_picture(4))), "each label can be told from the others"
    below = montage[lower : int(rows[0]["y"]) + int(rows[0]["height"]), int(rows[0]["x"]) : box_right]
    assert below.size
    assert below.min() < 100, "the caption is dark"
    assert (below == 255).mean() > 0.5
    assert not (project / "outputs" / "montage.jpg").exists()


def test_a_csv_may_be_named_itself(himl: Himl, project: Path, slides: Path) -> None:
    write_files(slides, {"some.csv": "image,slide_id\nb.svs,two\n"})
    done = himl.ok("montage", slides / "some.csv", "--width", "300")
    assert [row["slide_id"] for row in rows_of(project / "outputs")] == ["two"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("option", "content", "shown"),
    [
        ("--include_by_slide_id", "c.png\na.tiff\n", ["a.tiff", "c.png"]),
        ("--include_by_slide_id", "slide_id,why\nb.svs,nice\n", ["b.svs"]),
        ("--exclude_by_slide_id", "c.png\n\na.tiff", ["b.svs", "d.tiff"]),
        ("--exclude_by_slide_id", "", ["a.tiff", "b.svs", "c.png", "d.tiff"]),
    ],
)
def test_lists_of_ids(himl: Himl, project: Path, slides: Path, option: str, content: str, shown: Sequence[str]) -> None:
    (project / "ids.txt").write_text(content)
    himl.ok("montage", "slides", option, "ids.txt", "--width", "300", "--image_format", "png")
    assert [row["slide_id"] for row in rows_of(project / "outputs")] == shown


def test_hi_ml_option_names_work_and_cluster_only_ones_are_noted(himl: Himl, project: Path, slides: Path) -> None:
    old = ("--image_glob_pattern", "**/*.tiff", "--parallel", "2", "--backend", "OpenSlide", "--docker_shm_size", "10g", "--wait_for_completion")
    done = himl.ok("montage", "--dataset", slides, *old, "--workspace_config_path", "nowhere.json", "--width", "300", "--image-format", "JPG")
    rows = rows_of(project / "outputs")
    assert [(row["slide_id"], row["backend"]) for row in rows] == [("a.tiff", "openslide"), ("d.tiff", "openslide")]
    assert done.stderr == "Passed over, since the montage is made here and not on a cluster: --shm_size, --wait.\n"
    assert left_in(project / "outputs") == ["montage.csv", "montage.jpg"]


def test_hi_ml_s_layout_stretches_into_a_black_grid(himl: Himl, project: Path) -> None:
    """Two slides of other shapes, the ids in another order than the files."""
    (project / "s").mkdir()
    write_tiff(project / "s" / "x.tiff", slide_picture(1, (400, 400)))
    write_tiff(project / "s" / "y.tiff", slide_picture(2, (800, 300)))
    write_files(project, {"s/dataset.csv": "image,slide_id\nx.tiff,zz\ny.tiff,aa\n"})
    himl.ok("montage", "s", "--layout", "hi-ml", "--level", "0", "--width", "600", "--image_format", "png")
    montage, rows = pixels_of(project / "outputs" / "montage.png"), rows_of(project / "outputs")
    assert [row["slide_id"] for row in rows] == ["aa", "zz"]
    assert {(row["picture_width"], row["picture_height"]) for row in rows} == {("600", "300")}, (
        "int(sqrt(2 * 16 / 9)) is one column, cells are twice as wide as high"
    )
    assert not montage[:2].any(), "grid lines are black"
    assert difference(montage, rows[0], slide_picture(2, (800, 300))) < 12


def test_montage_uses_given_level_or_coarsest_filling_cell(himl: Himl, project: Path, slides: Path) -> None:
    """A slide that lacks the level is read at another one, with a remark."""
    missing = himl.ok("montage", "slides", "--level", "2", "--width", "600", "--image_format", "png", "--output_path", "far")
    rows = rows_of(project / "far")
    assert [row["level"] for row in rows] == ["2", "2", "0", "2"]
    assert [bool(row["remark"]) for row in rows] == [False, False, True, False]
    assert "evel 2" in missing.stderr
    himl.ok("montage", "slides", "--level", "auto", "--width", "600", "--image_format", "png", "--output_path", "auto")
    for row in rows_of(project / "auto"):
        finer = SIZE[0] // 2 ** int(row["level"])
        assert finer >= int(row["picture_width"])
        assert row["image"] == "c.png" or finer / 2 < int(row["picture_width"]) or row["level"] == "2"


def test_without_a_width_pictures_are_as_large_as_they_are(himl: Himl, project: Path) -> None:
    """Four times 400 x 300 pixels are 1,300 pixels wide, not 60,000. Enlarging them is asked for, and told where it is much."""
    (project / "four").mkdir()
    for seed in range(4):
        Image.fromarray(slide_picture(seed, (400, 300))).save(project / "four" / f"{seed}.png")
    done = himl.ok("montage", "four", "--level", "0", "--image_format", "png")
    montage, rows = pixels_of(project / "outputs" / "montage.png"), rows_of(project / "outputs")
    assert 1200 <= montage.shape[1] <= 1300
    for seed, row in enumerate(rows):
        left, upper, right, lower = picture_box(row)
        assert np.array_equal(montage[upper:lower, left:right], slide_picture(seed, (400, 300)))
    assert done.stderr == ""
    wide = himl.ok("montage", "four", "--level", "0", "--image_format", "png", "--width", "4000")
    assert "The median slide is enlarged 3.3 times in width and height" in wide.stderr
    assert "Without --width none is" in wide.stderr
    assert "--level" not in wide.stderr
    assert himl.ok("montage", "four", "--level", "0", "--image_format", "png", "--width", "2400").stderr == ""


def test_hi_ml_s_layout_tells_which_width_would_do(himl: Himl, project: Path, slides: Path) -> None:
    done = himl.ok("montage", "slides", "--layout", "hi-ml", "--width", "3000", "--image_format", "png")
    said = re.search(r"enlarged [\d.]+ times .* --width (\d+) shows as much", done.stderr)
    assert said is not None
    assert "--level auto reads finer levels" in done.stderr
    assert "enlarged" not in himl.ok("montage", "slides", "--layout", "hi-ml", "--width", said[1], "--image_format", "png").stderr


def test_workers_are_one_a_core() -> None:
    assert cores() > 0
    if sys.platform == "linux":
        pinned = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from himl_cli.services.montage.threads import cores; print(cores())"
        assert subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True).stdout == "1\n"


def test_every_worker_count_makes_the_same_picture(himl: Himl, project: Path, slides: Path) -> None:
    for workers in ("1", "5"):
        himl.ok("montage", "slides", "--workers", workers, "--width", "700", "--image_format", "png,jpg", "--output_path", workers)
    assert (pixels_of(project / "1" / "montage.png") == pixels_of(project / "5" / "montage.png")).all()
    assert (project / "1" / "montage.csv").read_bytes() == (project / "5" / "montage.csv").read_bytes()


@pytest.fixture
def broken(slides: Path) -> Path:
    """Two good slides, and four that cannot be read, for three reasons."""
    for kind in ("empty", "garbage", "zeroed"):
        write_broken(kind, slides)
    write_broken("empty", slides, name="void")
    for name in ("b.svs", "c.png"):
        (slides / name).unlink()
    return slides


def test_unreadable_slides_are_listed_and_get_marked_cells(himl: Himl, project: Path, broken: Path) -> None:
    done = himl.ok("montage", "slides", "--width", "900", "--image_format", "png")
    rows = rows_of(project / "outputs")
    failed = {row["slide_id"]: row for row in rows if row["status"] == "failed"}
    assert set(failed) == {"empty.tiff", "garbage.tiff", "zeroed.tiff", "void.tiff"}
    assert all(row["reason"] for row in failed.values())
    lines = done.stderr.splitlines()
    assert lines[0].startswith("not read: 'empty.tiff', 'void.tiff': ")
    assert {line.split("'")[1] for line in lines} == {"empty.tiff", "garbage.tiff", "zeroed.tiff"}
    assert "2 of 6 slides" in done.stdout
    assert "4 not read" in done.stdout
    montage = pixels_of(project / "outputs" / "montage.png")
    for row in failed.values():
        x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
        cell = montage[y : y + height, x : x + width]
        assert (cell < 250).any(), "it is no blank slide"
        assert (cell > 200).mean() > 0.5, "and no black one"


def test_reader_logs_and_slide_levels_show_only_if_verbose(himl: Himl, project: Path) -> None:
    (project / "two").mkdir()
    write_broken("header-only", project / "two")
    write_tiff(project / "two" / "a.tiff", slide_picture(1, (60, 40)), levels=2)
    plain = himl.ok("montage", "two", "--image_format", "png")
    assert plain.stderr == "not read: 'header-only.tiff': there is no picture in it\n"
    verbose = himl.ok("montage", "two", "--image_format", "png", "-v")
    assert "tifffile: <tifffile.TiffPages" in verbose.stderr
    assert "'a.tiff': tifffile, level 1 of 2, 30 x 20 pixels" in verbose.stderr


def test_strict_exits_with_1_once_all_is_written(himl: Himl, project: Path, broken: Path) -> None:
    done = himl("montage", "slides", "--width", "300", "--strict")
    assert done.code == 1
    assert "error: 4 slides or their masks were not read, and --strict was given." in done.stderr
    assert left_in(project / "outputs") == ["montage.csv", "montage.jpg", "montage.png"]
    assert himl("montage", "slides", "--width", "300", "--strict", "--image_glob", "[ad]*.tiff").code == 0


def test_json_is_one_document_and_quiet_the_paths(himl: Himl, project: Path, broken: Path) -> None:
    done = himl("montage", "slides", "--width", "400", "--json", "--strict")
    document = done.json()
    assert done.code == 1
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "slides_failed"
    assert [Path(file["path"]).name for file in document["files"]] == ["montage.png", "montage.jpg", "montage.csv"]
    for file in document["files"]:
        assert (project / file["path"]).stat().st_size == file["bytes"]
    with Image.open(project / "outputs" / "montage.png") as image:
        assert (document["width"], document["height"]) == image.size
    assert document["slides"] == 6
    assert {each["slide_id"] for each in document["failed"]} == {"empty.tiff", "garbage.tiff", "zeroed.tiff", "void.tiff"}
    assert document["seconds"] > 0
    quiet = himl.ok("montage", "slides", "--width", "400", "-q")
    assert quiet.stdout.splitlines() == [os.path.join("outputs", f"montage.{suffix}") for suffix in ("png", "jpg", "csv")]
    assert quiet.stderr == ""


def test_a_zoomable_page(himl: Himl, project: Path, slides: Path) -> None:
    done = himl.ok("montage", "slides", "--width", "1100", "--image_format", "dzi", "--image_format", "png")
    out = project / "outputs"
    assert {"index.html", "montage.csv", "montage.dzi", "montage.png"} <= set(left_in(out))
    tiles = [*(out / "montage_files").rglob("*.jpg")]
    assert len(tiles) > 4
    line = next(line for line in done.stdout.splitlines() if "montage.dzi" in line)
    assert f"{1100:,} x " in line
    assert "a.tiff" in (out / "index.html").read_text(encoding="utf-8")
    total = sum(tile.stat().st_size for tile in tiles) + (out / "montage.dzi").stat().st_size
    again = himl.ok("montage", "slides", "--width", "1100", "--image_format", "dzi", "--json").json()
    assert next(file["bytes"] for file in again["files"] if file["path"].endswith(".dzi")) == total


@pytest.mark.parametrize("amount", [1, 2, 300])
def test_one_two_and_many_slides(himl: Himl, project: Path, amount: int) -> None:
    folder = project / "tiny"
    folder.mkdir()
    write_tiff(folder / "t.tiff", slide_picture(0, (96, 64)), compression="deflate", tile=64)
    write_files(folder, {"list.csv": "image,slide_id\n" + "".join(f"t.tiff,s{number}\n" for number in range(amount))})
    himl.ok("montage", folder / "list.csv", "--width", "500")
    rows = rows_of(project / "outputs")
    assert len(rows) == amount
    assert len({(row["column"], row["row"]) for row in rows}) == amount
    assert pixels_of(project / "outputs" / "montage.jpg").shape[1] == 500


def test_many_failures_are_a_few_lines(himl: Himl, project: Path, slides: Path) -> None:
    lines = ["image,slide_id", "a.tiff,a", *(f"gone_{number}.tiff,g{number}" for number in range(1000))]
    write_files(slides, {"dataset.csv": "\n".join(lines)})
    done = himl.ok("montage", slides / "dataset.csv", "--width", "800", "--image_format", "png")
    assert len(done.stderr.splitlines()) < 5
    assert "and 997 more" in done.stderr
    assert sum(row["status"] == "failed" for row in rows_of(project / "outputs")) == 1000


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf_8(himl: Himl, project: Path, slides: Path) -> None:
    name = not_utf8_name(".png")
    (slides / "c.png").rename(slides / name)
    done = himl("montage", "slides", "--width", "300", "--json")
    assert done.code == 0
    assert [row["status"] for row in rows_of(project / "outputs")] == ["ok"] * 4
    out = os.fsdecode(b"out-\xff")
    assert himl("montage", "slides", "--width", "300", "--output_path", out, "-q").raw_stdout.splitlines()[0] == os.fsencode(os.path.join(out, "montage.png"))


def test_slides_of_a_local_datastore(himl: Himl, project: Path, slides: Path) -> None:
    himl.ok("init", "--local")
    himl.ok("datastore", "upload", "slides", "scans")
    himl.ok("montage", "scans", "--datastore", "local", "--width", "600", "--image_format", "png", "--output_path", "far")
    himl.ok("montage", "slides", "--width", "600", "--image_format", "png")
    assert (pixels_of(project / "far" / "montage.png") == pixels_of(project / "outputs" / "montage.png")).all()
