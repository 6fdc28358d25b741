"""Tests of annotations in a Digital Slide Archive, played by a double: what himl sends to which item, what it skips,
and the message of each failure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from himl_cli.slides.annotations import TileOptions, read_documents
from tests.support.dsa import CHECK, KEY, TOKEN, Archive, running_archive
from tests.support.running import Himl, Outcome, write_files
from tests.support.runs import RecordedRuns

HEADER = "slide_id,tile_id,left,top,right,bottom,bag_attn\n"
TILES = (
    f"{HEADER}slide_1,a,0,0,100,100,0.1\nslide_1,b,100,0,200,100,0.5\nslide_1,c,200,0,300,50,0.3\n"
    "slide_2,a,0,0,10,10,0.7\n"
)
GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]], [[4, 1], [5, 1], [5, 2], [4, 1]]],
            },
            "properties": {"classification": {"name": "Tumour", "color": [200, 0, 10]}},
        },
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
            "properties": {"label": "cell", "fillColor": "#ff0000"},
        },
        {
            "type": "Feature",
            "geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
            "properties": {"label": 0, "name": "zero"},
        },
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [1, 2]},
            "properties": {"slide_id": "slide_2"},
        },
    ],
}


def shape(properties: str) -> str:
    return (
        f'{{"type": "Feature", "geometry": {{"type": "Point", "coordinates": [1, 2]}}, "properties": {{{properties}}}}}'
    )


@pytest.fixture
def archive(archive: Archive) -> Archive:
    """Two folders with slides, one of which is in both."""
    for name in (
        "PANDA/slide_1.svs",
        "PANDA/slide_10.svs",
        "PANDA/slide_2.ome.tiff",
        "TCGA/slide_1.svs",
        "TCGA/old/x.svs",
    ):
        archive.add(f"Biopsies/{name}")
    return archive


@pytest.fixture
def files(project: Path) -> Path:
    write_files(
        project,
        {"tiles.csv": TILES, "slide_10.geojson": json.dumps(GEOJSON), "one.csv": f"{HEADER}slide_2,a,0,0,10,10,0.7\n"},
    )
    return project


def documents(himl: Himl, *arguments: str) -> dict[str, Any]:
    """Return the output of `--dry_run`. large_image must accept each document."""
    found: dict[str, Any] = himl.ok(
        "dsa", "upload", *arguments, "--dry_run", env={"DSA_URL": "", "DSA_API_KEY": ""}
    ).json()
    assert [error.message for document in found.values() for error in CHECK.iter_errors(document)] == []
    return found


def test_rings_without_their_first_point_at_the_end_keep_all_points(himl: Himl, project: Path) -> None:
    """The format repeats it, and some programs do not."""
    corners = [[0, 0], [9, 0], [9, 9], [0, 9]]
    for ring in (corners, [*corners, corners[0]]):
        write_files(project, {"s.geojson": json.dumps({"type": "Polygon", "coordinates": [ring]})})
        (element,) = documents(himl, "s.geojson")["s"]["elements"]
        assert element["points"] == [[x, y, 0] for x, y in corners]


def test_rectangles_have_the_colours_of_their_values(himl: Himl, files: Path) -> None:
    found = documents(himl, "tiles.csv")
    assert [*found] == ["slide_1", "slide_2"]
    assert found["slide_1"]["name"] == "tiles"
    first, second, third = found["slide_1"]["elements"]
    assert {key: first[key] for key in ("type", "center", "width", "height")} == {
        "type": "rectangle",
        "center": [50, 50, 0],
        "width": 100,
        "height": 100,
    }
    assert (third["center"], third["height"], third["label"]["value"], third["user"]) == (
        [250, 25, 0],
        50,
        "0.3",
        {"bag_attn": 0.3},
    )
    colours = [each["fillColor"] for each in (first, third, second)]
    assert colours == ["rgba(43, 131, 186, 0.5)", "rgba(255, 255, 191, 0.5)", "rgba(215, 25, 28, 0.5)"]
    absolute = documents(himl, "tiles.csv", "--no_rescale", "--id_filter", "_1", "--name", "attention")
    assert [*absolute] == ["slide_1"]
    assert absolute["slide_1"]["name"] == "attention"
    assert absolute["slide_1"]["elements"][1]["fillColor"] == "rgba(255, 255, 191, 0.5)"


def test_heatmap_has_a_point_in_each_tile(himl: Himl, files: Path) -> None:
    write_files(files, {"tiles.csv": TILES.replace("bag_attn", "score").replace(",", ";")})
    (element,) = documents(himl, "tiles.csv", "--kind", "heatmap", "--value", "score")["slide_1"]["elements"]
    assert element["points"] == [[50, 50, 0, 0.1], [150, 50, 0, 0.5], [250, 25, 0, 0.3]]
    assert (element["type"], element["radius"], element["normalizeRange"]) == ("heatmap", 100, True)
    assert len(element["colorRange"]) == len(element["rangeValues"])


def test_shapes_of_geojson_keep_their_labels_and_colours(himl: Himl, files: Path) -> None:
    found = documents(himl, "slide_10.geojson")
    assert [*found] == ["slide_10", "slide_2"]
    polygon, point, other, line = found["slide_10"]["elements"]
    assert (polygon["points"], polygon["closed"]) == ([[0, 0, 0], [9, 0, 0], [9, 9, 0]], True)
    assert polygon["holes"] == [[[4, 1, 0], [5, 1, 0], [5, 2, 0]]]
    assert (polygon["label"], polygon["group"], polygon["lineColor"]) == (
        {"value": "Tumour"},
        "Tumour",
        "rgba(200, 0, 10, 1)",
    )
    assert (point["center"], other["center"], other["label"], other["fillColor"]) == (
        [1, 2, 0],
        [3, 4, 0],
        {"value": "cell"},
        "#ff0000",
    )
    assert (line["points"], line["closed"], line["label"]) == ([[1, 2, 0], [3, 4, 0]], False, {"value": "0"})


RED = -3670016  # the bits of (200, 0, 0), opaque, as a signed integer
POSITIVE = {"value": "Tumor: Positive"}


@pytest.mark.parametrize(
    ("properties", "style"),
    [
        (
            {"classification": {"names": ["Tumor", "Positive"], "color": [200, 0, 0]}},
            {"label": POSITIVE, "group": "Tumor: Positive", "lineColor": "rgba(200, 0, 0, 1)"},
        ),
        (
            {"classification": {"name": "Tumor", "color": [200, 0, 0, 51]}},
            {"label": {"value": "Tumor"}, "group": "Tumor", "lineColor": "rgba(200, 0, 0, 0.2)"},
        ),
        ({"name": "x", "color": [0, 200, 0]}, {"label": {"value": "x"}, "lineColor": "rgba(0, 200, 0, 1)"}),
        # The colour of an object is shown in place of that of its class.
        (
            {"name": "x", "color": [0, 200, 0], "classification": {"name": "Tumor", "color": [9, 9, 9]}},
            {"label": {"value": "x"}, "group": "Tumor", "lineColor": "rgba(0, 200, 0, 1)"},
        ),
        # Before 0.4
        (
            {"classification": {"name": "Tumor", "colorRGB": RED}},
            {"label": {"value": "Tumor"}, "group": "Tumor", "lineColor": "rgba(200, 0, 0, 1)"},
        ),
        (
            {
                "classification": {
                    "parentClass": {"name": "Tumor", "colorRGB": RED},
                    "name": "Positive",
                    "colorRGB": 200,
                }
            },
            {"label": POSITIVE, "group": "Tumor: Positive", "lineColor": "rgba(0, 0, 200, 1)"},
        ),
        (
            {"color": RED, "classification": "Tumor"},
            {"label": {"value": "Tumor"}, "group": "Tumor", "lineColor": "rgba(200, 0, 0, 1)"},
        ),
        ({"classification": {"name": None}, "lineColor": None}, {}),
        # Not from QuPath
        (
            {"label": {"value": 3, "visibility": "always"}, "lineColor": "#123", "color": [1, 2, 3]},
            {"label": {"value": "3", "visibility": "always"}, "lineColor": "#123"},
        ),
    ],
)
def test_properties_of_qupath_become_labels_groups_and_colours(
    properties: dict[str, Any], style: dict[str, Any]
) -> None:
    nucleus = {"type": "Point", "coordinates": [3, 4]}
    feature = {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [1, 2]},
        "nucleusGeometry": nucleus,
        "properties": properties,
    }
    options = TileOptions("bag_attn", is_heatmap=False, rescale=True)
    document = read_documents(json.dumps(feature), "a.geojson", {}, name="a", slide="a", options=options)["a"]
    assert document["elements"] == [{**style, "type": "point", "center": center} for center in ([1, 2, 0], [3, 4, 0])]
    assert [*CHECK.iter_errors(document)] == []


def test_slides_are_found_by_id_and_sent_once(himl: Himl, files: Path, archive: Archive) -> None:
    uploaded = himl.ok("dsa", "upload", "tiles.csv", "--folder", "Biopsies/PANDA", "--json").json()
    assert uploaded["name"] == "tiles"
    assert [(row["slide_id"], row["status"], row["item"], row["elements"]) for row in uploaded["slides"]] == [
        ("slide_1", "uploaded", "slide_1.svs", 3),
        ("slide_2", "uploaded", "slide_2.ome.tiff", 1),
    ]
    item = archive.add("Biopsies/PANDA/slide_1.svs")
    assert [each["annotation"] for each in archive.annotations(item)] == [documents(himl, "tiles.csv")["slide_1"]]
    again = himl.ok("dsa", "upload", "tiles.csv", "--folder", "Biopsies/PANDA")
    assert again.stdout == "Annotation 'tiles': 2 unchanged.\n"
    write_files(files, {"tiles.csv": TILES.replace("0.5", "0.6")})
    differs = himl("dsa", "upload", "tiles.csv", "--folder", "Biopsies/PANDA")
    assert (differs.code, differs.stdout) == (1, "Annotation 'tiles': 1 unchanged, 1 failed.\n")
    assert "slide_1: Item 'slide_1.svs' has a different annotation 'tiles'." in differs.stderr
    assert "--overwrite" in differs.stderr
    replaced = himl.ok("dsa", "upload", "tiles.csv", "--folder", "Biopsies/PANDA", "--overwrite", "-q").stdout.split()
    assert replaced == [
        each["_id"]
        for name in ("slide_1.svs", "slide_2.ome.tiff")
        for each in archive.annotations(archive.add(f"Biopsies/PANDA/{name}"))
    ]
    (kept,) = archive.annotations(item)
    assert kept["annotation"]["elements"][1]["user"] == {"bag_attn": 0.6}


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    ("arguments", "item"),
    [
        (["one.csv"], "PANDA/slide_2.ome.tiff"),  # anywhere in the archive
        (["slide_10.geojson", "--id_filter", "10"], "PANDA/slide_10.svs"),
        (["one.csv", "--item", "slide_1", "--folder", "/collection/Biopsies/TCGA/"], "TCGA/slide_1.svs"),
        (["one.csv", "--item", "slide_1.svs", "--folder", "Biopsies/PANDA"], "PANDA/slide_1.svs"),
        # The folder and the item are parts of names.
        (["one.csv", "--item", "e_10", "--folder", "Biopsies/PANDA"], "PANDA/slide_10.svs"),
        (["one.csv", "--item", "ID"], "TCGA/old/x.svs"),
    ],
)
def test_item_is_found_by_name_folder_or_id(
    himl: Himl, files: Path, archive: Archive, arguments: list[str], item: str
) -> None:
    wanted = archive.add(f"Biopsies/{item}")
    rows = himl.ok("dsa", "upload", *(wanted if word == "ID" else word for word in arguments), "--json").json()[
        "slides"
    ]
    assert [row["item_id"] for row in rows] == [wanted]
    assert len(archive.annotations(wanted)) == 1


def test_results_of_a_run_are_uploaded_under_its_name(himl: Himl, project: Path, archive: Archive) -> None:
    runs = RecordedRuns(project)
    runs.add(
        "mil_1",
        display_name="transformer",
        files={
            "outputs/test/test_output.csv": TILES.encode(),
            "outputs/val/test_output.csv": f"{HEADER}x,a,0,0,1,1,1\n".encode(),
        },
    )
    uploaded = himl.ok("dsa", "upload", "--run-id", "mil_1", "--folder", "Biopsies/PANDA", "--json").json()
    assert (uploaded["name"], len(uploaded["slides"])) == ("mil_1 (transformer)", 2)
    himl.ok("dsa", "upload", "--run", "mil_1", "outputs/val/test_output.csv")
    assert len(archive.annotations(archive.add("Biopsies/TCGA/old/x.svs"))) == 1
    missing = himl("dsa", "upload", "--run", "mil_1", "outputs/test_output.csv")
    assert missing.code == 3
    assert "Did you mean 'outputs/val/test_output.csv' or 'outputs/test/test_output.csv'?" in missing.stderr


def test_slides_without_item_do_not_stop_the_others(himl: Himl, files: Path, archive: Archive) -> None:
    done = himl("dsa", "upload", "tiles.csv", "--json")
    assert done.code == 1
    assert done.error_json()["message"] == "1 of 2 slides have no new annotation."
    first, second = done.json()["slides"]
    assert (first["status"], second["status"]) == ("failed", "uploaded")
    assert "matches 2 items" in first["reason"]


@pytest.mark.parametrize("fault", [-1, 500])
def test_annotation_is_stored_once_where_the_server_fails(
    himl: Himl, files: Path, archive: Archive, fault: int
) -> None:
    """The connection breaks after the annotation is stored, or the server fails before that."""
    for arguments, status in (([], "uploaded"), (["--kind", "heatmap", "--overwrite"], "replaced")):
        archive.faults = [fault]
        (row,) = himl.ok("dsa", "upload", "one.csv", *arguments, "--json").json()["slides"]
        assert row["status"] == status
        (kept,) = archive.annotations(archive.add("Biopsies/PANDA/slide_2.ome.tiff"))
        assert kept["annotation"] == documents(himl, "one.csv", *arguments[:2])["slide_2"]


def test_an_invalid_line_stops_one_slide_only(himl: Himl, project: Path, archive: Archive) -> None:
    """Names of columns may have any case."""
    wanted = archive.add("Biopsies/PANDA/slide_2.ome.tiff")
    for bad, reason in (
        ("slide_1,b,100,0,200,100,nan", "bag_attn must be a number, not 'nan'"),
        ("slide_1,b,100,0,50,100,1", "the tile has no area"),
    ):
        content = (
            TILES.replace("slide_1,b,100,0,200,100,0.5", bad)
            .replace("slide_id", "Slide_ID")
            .replace("bag_attn", " BAG_attn")
        )
        write_files(project, {"tiles.csv": content})
        done = himl("dsa", "upload", "tiles.csv", "--folder", "Biopsies/PANDA", "--json")
        rows = {row["slide_id"]: (row["reason"], row["item_id"]) for row in done.json()["slides"]}
        assert (done.code, rows) == (
            1,
            {"slide_1": (f"'tiles.csv', line 3: {reason}.", None), "slide_2": (None, wanted)},
        )
        dry = himl("dsa", "upload", "tiles.csv", "--dry_run")
        assert (dry.code, [*dry.json()]) == (1, ["slide_2"])
        assert f"slide_1: 'tiles.csv', line 3: {reason}." in dry.stderr
        assert himl("dsa", "upload", "tiles.csv", "--folder", "Biopsies/PANDA", "--id_filter", "slide_2").code == 0


def test_list_goes_down_from_collections_to_annotations(himl: Himl, files: Path, archive: Archive) -> None:
    himl.ok("dsa", "upload", "one.csv")
    levels = ("", "Biopsies", "Biopsies/TCGA", "Biopsies/PANDA/slide_2.ome.tiff")
    found = [[(row["type"], row["name"]) for row in himl.ok("dsa", "list", level, "--json").json()] for level in levels]
    assert found == [
        [("collection", "Biopsies")],
        [("folder", "PANDA"), ("folder", "TCGA")],
        [("folder", "old"), ("item", "slide_1.svs")],
        [("annotation", "one")],
    ]
    printed = himl.ok("dsa", "list", levels[-1])
    assert printed.stdout.splitlines()[0] == "type\tname\tid\telements\tupdated"
    assert himl.ok("dsa", "list", "Biopsies", "-q").stdout.split() == [
        archive.add("Biopsies/PANDA"),
        archive.add("Biopsies/TCGA"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no column 'slide_id'"),
        (HEADER, "has no lines below its header"),
        (TILES.replace("bag_attn", "attention"), "has no column 'bag_attn'"),
        ("slide_id,left,top,right,bottom,bag_attn,bag_attn\ns,0,0,1,1,0.5,1\n", "has several columns 'bag_attn'"),
        (f"{HEADER}slide_1,a,0,0,1,1,nan\nslide_1,a,0,0,1,1,0.5\n", "line 2: bag_attn must be a number, not 'nan'"),
        (f"{HEADER}slide_2,a,20,0,10,10,0.5\n", "line 2: the tile has no area"),
        ("left,top,right,bottom,bag_attn,slide_id\n0,0,1,1,0.5\n", "line 2: slide_id is empty"),
        (f'{HEADER}"a', "line 2: unexpected end of data"),
        ("{", "is not valid JSON (line 1)"),
        ("[1]", "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "has no shapes"),
        ('{"type": "Polygon", "coordinates": [[["x", 1]]]}', "shape 1 cannot be an annotation"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]}', "shape 1 cannot be an annotation"),
        ('{"type": "Circle", "coordinates": [1, 2]}', "shape 1 cannot be an annotation"),
        (
            shape('"lineWidth": "3"'),
            "does not accept element 1 of 'wrong' (lineWidth '3': Expected `float`, got `str`)",
        ),
        (shape('"lineWidth": -1'), "(lineWidth '-1': Expected `float` >= 0.0)"),
        (shape('"fillColor": "red"'), "(fillColor 'red': "),
        (
            shape('"classification": {"name": "x", "color": [1, 2]}'),
            "(lineColor '[1, 2]': Expected `str`, got `array`)",
        ),
        (shape('"group": 5'), "(group '5': Expected `str`, got `int`)"),
        (shape('"label": {"value": "x", "size": 2}'), "Object contains unknown field `size`"),
    ],
)
def test_file_that_says_no_annotation_is_refused(
    himl: Himl, project: Path, archive: Archive, content: str, message: str
) -> None:
    write_files(project, {"wrong.txt": content})
    done = himl("dsa", "upload", "wrong.txt")
    assert (done.code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())
    assert "hint: " in done.stderr
    assert archive.seen == []


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "message"),
    [
        (["one.csv"], {"DSA_API_KEY": ""}, 4, "DSA_API_KEY is not set"),
        (["one.csv"], {"DSA_API_KEY": f"{KEY}x"}, 4, "does not accept the key in DSA_API_KEY"),
        (["one.csv"], {"DSA_URL": ""}, 2, "The Digital Slide Archive has no address"),
        (["one.csv"], {"DSA_URL": "dsa.example.org"}, 2, "is not the address of a Digital Slide Archive"),
        (["one.csv", "--url", "ADDRESS/other"], {}, 3, "No Digital Slide Archive at"),
        (["one.csv", "--url", "http://127.0.0.1:9"], {}, 5, "127.0.0.1 refuses connections"),
        ([], {}, 2, "FILE is missing"),
        (["none.csv"], {}, 2, "there is no file 'none.csv'"),
        (["tiles.csv", "--item", "slide_1.svs"], {}, 2, "--item needs one slide, but there are 2"),
        (["tiles.csv", "--id_filter", "x"], {}, 2, "has no slide with 'x' in its id. It has 'slide_1', 'slide_2'"),
        (
            ["one.csv", "--folder", "Biopsies"],
            {},
            2,
            "is not a folder: its type is collection. hint: Its folders are: 'PANDA', 'TCGA'.",
        ),
        (["slide_10.geojson", "--kind", "heatmap"], {}, 2, "A heat map needs a CSV"),
        (["one.csv", "--folder", "Biopsies/PANDAS"], {}, 3, "has no 'Biopsies/PANDAS'. hint: Did you mean 'PANDA'?"),
        (["one.csv", "--folder", "Biopsis/PANDA"], {}, 3, "has no 'Biopsis'. hint: Did you mean 'Biopsies'?"),
        (
            ["one.csv", "--folder", "Biopsies/TCGA"],
            {},
            3,
            "has 'slide_2' in its name. hint: Did you mean 'slide_1.svs'?",
        ),
        (["one.csv", "--item", "slide_33"], {}, 3, "Did you mean 'slide_"),
        (["one.csv", "--item", "a" * 24], {}, 3, "has no item with the id"),
        (["one.csv", "--item", "slide_1"], {}, 2, "'slide_1' matches 2 items"),
    ],
)
def test_failure_says_what_to_do(
    himl: Himl, files: Path, archive: Archive, arguments: list[str], variables: dict[str, str], code: int, message: str
) -> None:
    words = [word.replace("ADDRESS", archive.address.removesuffix("/dsa")) for word in arguments]
    done = himl("dsa", "upload", *words, env=variables)
    said = " ".join(done.stderr.split())
    assert (done.code, done.stdout) == (code, ""), said
    assert message in said
    assert "hint:" in said
    assert_secret(done)


def test_key_and_token_stay_with_the_archive(started_himl: Himl, files: Path, archive: Archive) -> None:
    """himl follows no redirection. The key is in no URL, and neither secret is logged."""
    with running_archive() as other:
        archive.moved_to = f"{other.address}/api/v1/system/version"
        done = started_himl("dsa", "upload", "one.csv")
        assert (done.code, other.seen) == (5, [])
        assert "does not send its credentials" in done.stderr
    archive.moved_to, archive.is_read_only = "", True
    refused = started_himl("dsa", "upload", "one.csv", "--verbose")
    assert refused.code == 4
    assert "Write access and annotation creation access were denied" in refused.stderr
    assert_secret(refused)
    assert all(KEY not in path and TOKEN not in path for _, path, _ in archive.seen)


def assert_secret(done: Outcome) -> None:
    assert KEY not in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
