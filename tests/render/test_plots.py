"""Pictures of many runs: which figures there are, what stands in them, and that no value breaks or bends them."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.results import Aggregation, Child, RunResults, Series
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import Scalar
from himl_cli.render.plots import save_plots
from himl_cli.render.plots.families import curves_by_metric, families_of
from himl_cli.render.plots.figures import figure_of
from himl_cli.render.plots.limits import limits_of
from himl_cli.render.plots.looks import Scheme, scheme_of
from himl_cli.render.plots.points import Curve, curve_of, spread_of, thinned
from himl_cli.render.plots.wording import names_of

Points = Sequence[tuple[int, float]]
SVG = "{http://www.w3.org/2000/svg}"


def child(
    index: int,
    metrics: Mapping[str, Points],
    hyperparameters: Mapping[str, Scalar] | None = None,
    last: Mapping[str, Any] | None = None,
    status: RunStatus = RunStatus.completed,
) -> Child:
    run = Run(f"wine_1_{index}", "wine", status, datetime(2026, 1, 1, tzinfo=timezone.utc))
    series = {name: Series([step for step, _ in points], [value for _, value in points], [*range(len(points))]) for name, points in metrics.items()}
    return Child(run, f"run {index}", hyperparameters or {}, RunResults({**{name: one.values[-1] for name, one in series.items()}, **(last or {})}, series))


def together(*children: Child) -> Aggregation:
    return Aggregation(sorted({name for one in children for name in one.results.last}), children)


def decaying(speed: float, steps: int = 20) -> Points:
    return [(step, math.exp(-speed * step)) for step in range(steps)]


def sweep(count: int, **more: Any) -> Aggregation:
    return together(*(child(i, {"val/loss": decaying(0.01 * (i + 1))}, {"lr": 10.0 ** (-1 - i / 10), "depth": i % 3}, **more) for i in range(count)))


def figures(aggregation: Aggregation, primary: str | None = None, goal: str = "minimize") -> dict[str, Any]:
    """The figures as objects, by family."""
    found = families_of(aggregation)
    scheme = scheme_of(aggregation.children, curves_by_metric(found), primary, goal)
    return {family.title: figure_of(family, aggregation.children, scheme, names_of(aggregation.children)) for family in found}


def scheme(aggregation: Aggregation, primary: str | None = None, goal: str = "minimize") -> Scheme:
    return scheme_of(aggregation.children, curves_by_metric(families_of(aggregation)), primary, goal)


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def texts(path: Path) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text"))


def test_one_figure_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    assert save_plots(sweep(3), tmp_path / "new" / "sweep.png") == [tmp_path / "new" / "sweep.png"]
    assert (tmp_path / "new" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sweep.png"]


def test_each_family_of_metrics_is_a_figure_and_each_metric_a_panel(tmp_path: Path) -> None:
    runs = together(*(child(i, {"train/loss": decaying(0.1), "val/loss": decaying(0.2)}, {"lr": i / 10}, {"test/auc": 0.7 + i / 10}) for i in range(3)))
    assert [path.name for path in save_plots(runs, tmp_path / "all.svg")] == ["all-auc.svg", "all-loss.svg"]
    assert {name: [axes.get_title(loc="left") for axes in figure.axes] for name, figure in figures(runs).items()} == {
        "loss": ["train/loss", "val/loss"],
        "auc": ["test/auc"],
    }
    assert {"train/loss", "val/loss", "step"} <= {*texts(tmp_path / "all-loss.svg").split()}


def test_families_whose_names_are_alike_in_files_get_files_of_their_own(tmp_path: Path) -> None:
    runs = together(child(0, {}, last={"a b": 1.0, "a:b": 2.0, "A_B": 3.0, "…": 4.0}))
    names = [path.name for path in save_plots(runs, tmp_path / "m.svg")]
    assert sorted(names) == sorted(["m-A_B.svg", "m-a_b_2.svg", "m-a_b_3.svg", "m-metric.svg"])
    assert len({name.casefold() for name in names}) == 4


def test_a_family_of_many_metrics_goes_on_in_another_figure() -> None:
    runs = together(*(child(i, {f"class_{number}/dice": decaying(0.1) for number in range(14)}) for i in range(2)))
    drawn = figures(runs)
    assert [*drawn] == ["dice (1)", "dice (2)"]
    assert [axes.get_title(loc="left") for axes in drawn["dice (2)"].axes] == ["class_12/dice", "class_13/dice"]


def test_few_runs_are_named_by_the_hyperparameters_in_which_they_differ_and_look_unlike_each_other() -> None:
    runs = together(*(child(i, {"loss": decaying(0.1 * i)}, {"lr": 10.0**-i, "batch": 32}) for i in range(12)))
    figure = figures(runs)["loss"]
    assert legend(figure)[:3] == ["lr=1", "lr=0.1", "lr=0.01"]
    assert not any("batch" in words for words in legend(figure))
    looks = scheme(runs).looks
    assert len({(look.colour, look.style) for look in looks.values()}) == 12


def test_runs_that_would_be_called_alike_are_told_by_their_ids() -> None:
    runs = together(*(child(i, {"loss": decaying(0.1)}, {"model": "vit" if i else "unet"}) for i in range(3)))
    assert names_of(runs.children) == ["model=unet", "model=vit (wine_1_1)", "model=vit (wine_1_2)"]


@pytest.mark.parametrize("count", [30, 300])
def test_many_runs_are_coloured_by_the_hyperparameter_that_tells_most_and_the_best_are_named(count: int) -> None:
    runs = sweep(count)
    figure = figures(runs)["loss"]
    assert figure.axes[-1].get_ylabel() == "lr (log scale)"
    best = names_of(runs.children)[-1]
    assert legend(figure)[0].startswith(f"best: {best} (val/loss ")
    assert legend(figure)[3:] == ["mean of the runs", "middle half of the runs"]
    assert sum(len(lines.get_segments()) for lines in figure.axes[0].collections if hasattr(lines, "get_segments")) == count - 3


def test_the_goal_turns_the_best_round() -> None:
    worst = names_of(sweep(30).children)[0]
    assert scheme(sweep(30), goal="maximize").looks[0].name.startswith(f"best: {worst} ")


def test_categories_get_a_colour_each() -> None:
    runs = together(*(child(i, {"val/loss": decaying((i % 3 + 1) / 10)}, {"model": ["unet", "vit", "resnet"][i % 3]}) for i in range(45)))
    assert [*scheme(runs).categories] == ["model=resnet", "model=unet", "model=vit"]
    assert {"model=resnet", "model=unet", "model=vit"} <= {*legend(figures(runs)["loss"])}


def test_many_folds_or_seeds_are_grey_since_their_numbers_tell_nothing() -> None:
    found = scheme(together(*(child(i, {"val/loss": decaying(0.1)}, {"random_seed": i}) for i in range(20))))
    assert found.scale is None
    assert len({look.colour for look in found.looks.values()}) == 1
    assert not any(look.name for look in found.looks.values())


def test_failed_runs_are_named_and_not_drawn() -> None:
    runs = together(*(child(i, {"loss": decaying(0.1)}, {"lr": i + 1}, status=RunStatus.failed if i == 1 else RunStatus.completed) for i in range(4)))
    figure = figures(runs)["loss"]
    assert figure.legends[0].get_title().get_text() == "1 of 4 failed, not shown: lr=2."
    assert "lr=2" not in legend(figure)
    assert {curve.child for panel in families_of(runs)[0].panels for curve in panel.curves} == {0, 2, 3}


def test_a_run_without_the_metric_shifts_no_other() -> None:
    runs = together(child(0, {"loss": decaying(0.1)}, {"lr": 1}), child(1, {}, {"lr": 2}), child(2, {"loss": decaying(0.3)}, {"lr": 3}))
    figure = figures(runs)["loss"]
    assert legend(figure)[:2] == ["lr=1", "lr=3"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 of 3 runs without it"]
    colours = {look.name: look.colour for look in scheme(runs).looks.values()}
    drawn = {line.get_color(): line.get_ydata()[1] for line in figure.axes[0].lines if len(line.get_ydata()) == 20}
    assert drawn[colours["lr=3"]] == pytest.approx(math.exp(-0.3))


def test_steps_out_of_order_and_logged_twice_are_put_in_order() -> None:
    curve = curve_of(0, Series([5, 1, 3, 1, 5], [50.0, 10.0, 30.0, 11.0, 51.0], [1.0, 2.0, 3.0, 4.0, 0.5]))
    assert curve is not None
    assert [*curve.steps] == [1, 3, 5]
    assert [*curve.values] == [11.0, 30.0, 50.0]


def test_the_mean_is_taken_at_the_steps_that_runs_have_in_common() -> None:
    even, odd = Curve(0, np.arange(0, 20, 2), np.zeros(10)), Curve(1, np.arange(1, 21, 2), np.ones(10))
    assert spread_of([even, odd]) is None
    both = spread_of([Curve(0, np.arange(4), np.array([1.0, 2.0, np.nan, 4.0])), Curve(1, np.arange(6), np.full(6, 3.0))])
    assert both is not None
    assert [*both.steps] == [0, 1, 3]
    assert [*both.mean] == [2.0, 2.5, 3.5]
    assert both.high[0] - both.mean[0] == pytest.approx(math.sqrt(2))


def test_the_few_that_went_on_longest_are_not_passed_off_as_the_mean_of_all() -> None:
    curves = [Curve(i, np.arange(10 if i else 100), np.full(10 if i else 100, 1.0)) for i in range(4)]
    found = spread_of(curves)
    assert found is not None
    assert found.steps.max() == 9


def test_where_runs_are_missing_the_mean_is_dashed_and_that_is_said() -> None:
    runs = together(*(child(i, {"loss": decaying(0.1, 20 if i else 12)}, {"lr": i}) for i in range(4)))
    assert "mean where runs are missing (ended, or NaN)" in legend(figures(runs)["loss"])
    assert "mean where runs are missing (ended, or NaN)" not in legend(figures(sweep(4))["loss"])


def test_many_runs_have_the_quartiles_as_their_band() -> None:
    found = spread_of([Curve(i, np.arange(3), np.full(3, float(i))) for i in range(13)])
    assert found is not None
    assert (found.low[0], found.mean[0], found.high[0]) == pytest.approx((3.0, 6.0, 9.0))


def test_one_run_that_diverged_does_not_flatten_the_others() -> None:
    runs = together(*(child(i, {"loss": [(s, 1e300 if i == 1 and s > 10 else 1 / (s + 1)) for s in range(20)]}, {"lr": i}) for i in range(4)))
    axes = figures(runs)["loss"].axes[0]
    assert axes.get_ylim()[1] < 2
    assert [text.get_text() for text in axes.texts] == ["9 values beyond the axis"]


def test_values_over_decades_are_shown_on_a_logarithmic_axis() -> None:
    assert figures(together(child(0, {"loss": decaying(0.5, 40)})))["loss"].axes[0].get_yscale() == "log"
    assert figures(together(child(0, {"loss": decaying(0.1, 40)})))["loss"].axes[0].get_yscale() == "linear"
    assert not limits_of([0.0001, *np.linspace(0.2, 1.0, 40)]).is_log  # a score that begins near 0


def test_single_values_stand_in_rows_with_their_mean() -> None:
    runs = together(*(child(i, {}, {"lr": i}, {"auc": 0.5 + i / 10, "ok": "yes", "none": None}) for i in range(3)))
    assert [*figures(runs)] == ["auc"]
    axes = figures(runs)["auc"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lr=0", "lr=1", "lr=2", "mean ± standard deviation"]
    low, high = axes.get_xlim()
    assert low < 0.5
    assert high > 0.7


def test_hundreds_of_single_values_are_a_cloud() -> None:
    runs = together(*(child(i, {}, {"lr": 0.1**i}, {"auc": i / 200}) for i in range(200)))
    axes = figures(runs)["auc"].axes[0]
    assert len(axes.collections[0].get_offsets()) == 200
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean, middle half of the runs"]


def test_names_are_shown_as_they_are_and_no_formula_is_made_of_them(tmp_path: Path) -> None:
    runs = together(*(child(i, {"val/a$b_c$^2": decaying(0.1)}, {"x_$i$": f"\\frac{{1}}{{{i}}} & <b>\n次"}) for i in range(2)))
    (path,) = save_plots(runs, tmp_path / "names.svg")
    shown = texts(path)
    assert "val/a$b_c$^2" in shown
    assert "x_$i$=\\frac{1}{0} & <b> 次" in shown


def test_long_names_are_shortened_and_nothing_lies_outside_the_picture(tmp_path: Path) -> None:
    runs = together(*(child(i, {"loss": decaying(0.1), "b/loss": [(0, 0.1)]}, {"path": "/data/" + "x" * 300 + str(i)}) for i in range(9)))
    figure = figures(runs)["loss"]
    save_plots(runs, tmp_path / "long.svg")
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 <= whole[0] + 0.02
    assert box.y1 <= whole[1] + 0.02


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("png", "svg"):
        one, two = tmp_path / "one" / f"a.{suffix}", tmp_path / "two" / f"a.{suffix}"
        save_plots(sweep(15), one)
        save_plots(sweep(15), two)
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("panels", [2, 4, 8])
def test_a_colour_bar_stands_beside_any_number_of_panels(panels: int) -> None:
    runs = together(*(child(i, {f"part_{number}/loss": decaying(0.01 * i) for number in range(panels)}, {"lr": 10.0 ** (-i / 10)}) for i in range(15)))
    assert len(figures(runs)["loss"].axes) == panels + 1


def test_curves_of_very_many_runs_are_drawn_with_few_points_each_peaks_and_gaps_kept() -> None:
    def curve(index: int) -> Points:
        return [(step, 9.0 if step == 700 else math.nan if step == 300 else math.sin(step + index)) for step in range(2000)]

    (figure,) = figures(together(*(child(i, {"loss": curve(i)}, {"lr": 10.0 ** (-i / 10)}) for i in range(600)))).values()
    (lines,) = [found for found in figure.axes[0].collections if type(found).__name__ == "LineCollection"]
    paths = [path.vertices for path in lines.get_paths()]
    assert sum(len(path) for path in paths) < 300_000
    assert len(paths) == 2 * 600
    assert sum(9.0 in path[:, 1] for path in paths) == 600


def test_a_curve_of_many_points_keeps_its_peaks() -> None:
    values = np.zeros(100_000)
    values[[7, 50_123]] = [-3.0, 9.0]
    values[70_000] = np.nan
    less = thinned(Curve(0, np.arange(100_000), values))
    assert less.steps.size < 10_000
    assert (np.nanmin(less.values), np.nanmax(less.values)) == (-3.0, 9.0)
    assert 70_000 in less.steps
    assert np.isnan(less.values).sum() == 1


EXTREMES = [0.0, 1e300, -1e300, 1.7976931348623157e308, 5e-324, math.nan, math.inf, -math.inf]
NUMBERS = st.one_of(st.floats(), st.sampled_from(EXTREMES))
SERIES = st.lists(st.tuples(st.integers(-5, 2**53), NUMBERS), min_size=1, max_size=8)


@settings(max_examples=3)
@example([{"loss": [(step, value) for step in (-5, 2**53)], "val/loss": [(0, value)]} for value in EXTREMES])
@example([{"loss": list(enumerate(EXTREMES))}, {"val/loss": [(7, math.nan), (7, math.inf)]}])
@given(st.lists(st.dictionaries(st.sampled_from(["loss", "val/loss"]), SERIES), min_size=1, max_size=5))
def test_no_value_breaks_a_picture(tmp_path_factory: pytest.TempPathFactory, logged: list[dict[str, Points]]) -> None:
    runs = together(*(child(i, metrics, {"lr": i}) for i, metrics in enumerate(logged)))
    for path in save_plots(runs, tmp_path_factory.mktemp("any") / "any.png"):
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        assert 500 < width < 3000
        assert 200 < height < 3000


def test_whole_numbers_that_no_float_holds_are_beyond_every_axis(tmp_path: Path) -> None:
    runs = together(*(child(i, {}, {"lr": i}, {"n": 10**400 if i == 2 else i}) for i in range(3)))
    save_plots(runs, tmp_path / "n.png")
    assert [text.get_text() for text in figures(runs)["n"].axes[0].texts] == ["NaN or infinite values in 1 run"]


def test_runs_without_numbers_give_no_picture(tmp_path: Path) -> None:
    assert save_plots(together(child(0, {}, last={"note": "text"})), tmp_path / "x.png") == []
    assert save_plots(together(), tmp_path / "x.png") == []
    assert not [*tmp_path.glob("*.png")]


@pytest.mark.parametrize("name", ["x.pdf", "x", "x.png.txt"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadUsage, match=re.escape("Pictures end in .png or .svg")):
        save_plots(sweep(3), tmp_path / name)


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BadUsage, match="needs matplotlib") as caught:
        save_plots(sweep(3), tmp_path / "x.png")
    assert re.fullmatch(r"Install it: pip install .*\[plot\].*", caught.value.hint)


def test_a_place_that_cannot_be_written_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
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
