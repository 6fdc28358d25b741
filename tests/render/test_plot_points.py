"""Curves and values of many runs: how they are put in order, thinned and summed up, and that no value breaks or bends a picture."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from himl_cli.core.logged import Series
from himl_cli.render.aggregation import save_plots
from himl_cli.render.plot_data import Curve, curve_of, limits_of, spread_of, thinned
from tests.render.plotted import Points, child, decaying, figures, legend, sweep, together


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


def test_mean_ends_where_only_longest_runs_continue() -> None:
    curves = [Curve(i, np.arange(10 if i else 100), np.full(10 if i else 100, 1.0)) for i in range(4)]
    found = spread_of(curves)
    assert found is not None
    assert found.steps.max() == 9


def test_mean_is_dashed_and_labelled_where_runs_are_missing() -> None:
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


def test_curves_of_many_runs_are_thinned_keeping_peaks_and_gaps() -> None:
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
