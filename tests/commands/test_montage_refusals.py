"""What `himl montage` refuses: in one line, before anything is made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from himl_cli.core.installation import install_command
from tests.support.montages import four_slides, left_in
from tests.support.running import Himl, write_files


@pytest.fixture
def slides(project: Path) -> Path:
    return four_slides(project / "slides")


BAD: Mapping[str, tuple[Sequence[str], int, str]] = {
    "no dataset": ((), 2, "No dataset was named"),
    "empty dataset": ((" ",), 2, "DATASET got an empty value"),
    "two datasets": (("slides", "--dataset", "other"), 2, "Two datasets at once: 'slides' and --dataset 'other'"),
    "no such folder": (("nowhere",), 3, "'nowhere'"),
    "no such csv": (("slides/list.csv",), 3, "list.csv"),
    "width 0": (("slides", "--width", "0"), 2, "--width takes a whole number of pixels from 1 to 1,000,000, got 0"),
    "negative width": (("slides", "--width", "-5"), 2, "got -5"),
    "width is a word": (("slides", "--width", "wide"), 2, "'--width': 'wide'"),
    "width without end": (("slides", "--width", "1000001"), 2, "1000001"),
    "level is negative": (("slides", "--level", "-1"), 2, "--level takes a whole number from 0, or 'auto', got '-1'"),
    "level is a fraction": (("slides", "--level", "1.5"), 2, "'1.5'"),
    "level without end": (("slides", "--level", "9" * 5000), 2, "--level has at most 4 digits, got 5,000."),
    "no workers": (("slides", "--workers", "0"), 2, "--workers takes a whole number from 1 to 256, got 0"),
    "unknown format": (("slides", "--image_format", "png,jpgg"), 2, "--image_format cannot be 'jpgg'. Did you mean 'jpg'?"),
    "no format": (("slides", "--image_format", ","), 2, "--image_format got an empty value"),
    "unknown backend": (("slides", "--backend", "openslid"), 2, "--backend cannot be 'openslid'. Did you mean 'openslide'?"),
    "unknown layout": (("slides", "--layout", "himl"), 2, "--layout cannot be 'himl'. Did you mean 'hi-ml'?"),
    "output is a file": (("slides", "--output_path", "slides/c.png"), 2, "--output_path 'slides/c.png' is a file"),
    "output below a file": (("slides", "--output_path", "slides/c.png/x"), 1, "c.png"),
    "output is empty": (("slides", "--output_path", ""), 2, "--output_path got an empty value"),
    "both lists": (("slides", "--include_by_slide_id", "a", "--exclude_by_slide_id", "b"), 2, "cannot be used together"),
    "no such list": (("slides", "--include_by_slide_id", "nowhere.txt"), 2, "nowhere.txt"),
    "no match": (("slides", "--image_glob", "*.ndpi"), 2, "--image_glob '*.ndpi' matches no file"),
    "nothing left": (("slides", "--include_by_slide_id", "slides/notes.txt"), 2, "no slide"),
    "a column is missing": (("bad.csv",), 2, "no column 'slide_id'"),
    "the list would be replaced": (("own/montage.csv", "--output_path", "own"), 2, "'own/montage.csv' is a list of slides of this montage"),
    "a slide is no dataset": (("slides/a.tiff",), 2, "neither a folder nor a CSV"),
    "no such option": (("slides", "--widht", "5"), 2, "Did you mean '--width'"),
    "cucim is not here": (("slides", "--backend", "cucim"), 2, "cucim"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_one_line_and_leaves_nothing(himl: Himl, project: Path, slides: Path, case: str) -> None:
    arguments, code, text = BAD[case]
    write_files(project, {"bad.csv": "image,id\na.tiff,a\n", "own/montage.csv": "image,slide_id\n../slides/a.tiff,a\n"})
    before = left_in(project)
    done = himl("montage", *arguments)
    assert done.code == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))
    assert text in done.stderr.replace("\nhint: ", " ")
    assert left_in(project) == before
    assert not (project / "outputs").exists()
    assert himl("montage", *arguments, "--json").error_json()["message"]


@pytest.mark.parametrize("module", ["numpy", "isal"])
def test_without_the_extra_it_is_said_how_to_get_it(project: Path, slides: Path, module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv = ['himl', 'montage', 'slides']; from himl_cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: A montage needs {module}, which is not installed.",
        f"hint: Install it: {install_command('montage')}",
    ]
    assert not (project / "outputs").exists()
