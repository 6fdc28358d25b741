"""The files of pictures: where they are written, what they are called, and what keeps one from being written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.render.aggregation import save_plots
from tests.render.plotted import child, sweep, together


def test_one_figure_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    assert save_plots(sweep(3), tmp_path / "new" / "sweep.png") == [tmp_path / "new" / "sweep.png"]
    assert (tmp_path / "new" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sweep.png"]


def test_families_with_similar_file_names_get_separate_files(tmp_path: Path) -> None:
    runs = together(child(0, {}, last={"a b": 1.0, "a:b": 2.0, "A_B": 3.0, "…": 4.0}))
    names = [path.name for path in save_plots(runs, tmp_path / "m.svg")]
    assert sorted(names) == sorted(["m-A_B.svg", "m-a_b_2.svg", "m-a_b_3.svg", "m-metric.svg"])
    assert len({name.casefold() for name in names}) == 4


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        one, two = tmp_path / "one" / f"a.{suffix}", tmp_path / "two" / f"a.{suffix}"
        save_plots(sweep(15), one)
        save_plots(sweep(15), two)
        assert one.read_bytes() == two.read_bytes()


def test_runs_without_numbers_give_no_picture(tmp_path: Path) -> None:
    assert save_plots(together(child(0, {}, last={"note": "text"})), tmp_path / "x.png") == []
    assert save_plots(together(), tmp_path / "x.png") == []
    assert not [*tmp_path.glob("*.png")]


@pytest.mark.parametrize("name", ["x.pdf", "x", "x.png.txt"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadUsage, match=re.escape("Pictures end in .png or .svg")):
        save_plots(sweep(3), tmp_path / name)


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # Python's own way to say: not installed
    with pytest.raises(BadUsage, match="needs matplotlib") as caught:
        save_plots(sweep(3), tmp_path / "x.png")
    assert re.fullmatch(r"Install it: pip install .*\[plot\].*", caught.value.hint)


def test_unwritable_plot_path_is_error_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(DiskFailed, match="Cannot write"):
        save_plots(sweep(3), tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["x.png"]


def test_settings_of_the_user_do_not_count_and_are_not_touched(tmp_path: Path) -> None:
    import matplotlib

    save_plots(sweep(3), tmp_path / "a" / "x.svg")
    with matplotlib.rc_context({"font.size": 33.0, "text.usetex": True, "svg.fonttype": "path"}):
        save_plots(sweep(3), tmp_path / "b" / "x.svg")
        assert matplotlib.rcParams["font.size"] == 33.0
    assert (tmp_path / "a" / "x.svg").read_bytes() == (tmp_path / "b" / "x.svg").read_bytes()
