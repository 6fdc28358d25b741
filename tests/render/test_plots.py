"""Pictures of many runs: which figures exist, their contents, how values are aggregated and thinned, and the output
files.
"""

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
from himl_cli.core.logged import Aggregation, Child, RunResults, Series
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import Scalar
from himl_cli.render.aggregation import save_plots
from himl_cli.render.plot_data import (
    Curve,
    Scheme,
    curve_of,
    families_of,
    limits_of,
    names_of,
    scheme_of,
    spread_of,
    thinned,
)

Points = Sequence[tuple[int, float]]


def child(
    index: int,
    metrics: Mapping[str, Points],
    hyperparameters: Mapping[str, Scalar] | None = None,
    last: Mapping[str, Any] | None = None,
    status: RunStatus = RunStatus.completed,
) -> Child:
    run = Run(f"wine_1_{index}", "wine", status, datetime(2026, 1, 1, tzinfo=timezone.utc))
    series = {
        name: Series([step for step, _ in points], [value for _, value in points], [*range(len(points))])
        for name, points in metrics.items()
    }
    return Child(
        run,
        f"run {index}",
        hyperparameters or {},
        RunResults({**{name: one.values[-1] for name, one in series.items()}, **(last or {})}, series),
    )


def together(*children: Child) -> Aggregation:
    return Aggregation(sorted({name for one in children for name in one.results.last}), children)


def decaying(speed: float, steps: int = 20) -> Points:
    return [(step, math.exp(-speed * step)) for step in range(steps)]


def sweep(count: int, **more: Any) -> Aggregation:
    return together(
        *(
            child(i, {"val/loss": decaying(0.01 * (i + 1))}, {"lr": 10.0 ** (-1 - i / 10), "depth": i % 3}, **more)
            for i in range(count)
        )
    )


def figures(aggregation: Aggregation, primary: str | None = None, goal: str = "minimize") -> dict[str, Any]:
    from himl_cli.render.plots import figure_of  # late, since it imports Matplotlib

    found = families_of(aggregation)
    scheme = scheme_of(aggregation.children, found, primary, goal)
    return {
        family.title: figure_of(family, aggregation.children, scheme, names_of(aggregation.children))
        for family in found
    }


def scheme(aggregation: Aggregation, primary: str | None = None, goal: str = "minimize") -> Scheme:
    return scheme_of(aggregation.children, families_of(aggregation), primary, goal)


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []


def texts(path: Path) -> str:
    return " ".join(
        "".join(element.itertext()) for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    )


@pytest.mark.large("draws large figures")
def test_each_metric_family_is_a_figure_and_each_metric_a_panel(tmp_path: Path) -> None:
    runs = together(
        *(
            child(
                i, {"train/loss": decaying(0.1), "val/loss": decaying(0.2)}, {"lr": i / 10}, {"test/auc": 0.7 + i / 10}
            )
            for i in range(3)
        )
    )
    assert [path.name for path in save_plots(runs, tmp_path / "all.svg")] == ["all-auc.svg", "all-loss.svg"]
    titles = {name: [axes.get_title(loc="left") for axes in figure.axes] for name, figure in figures(runs).items()}
    assert titles == {"loss": ["train/loss", "val/loss"], "auc": ["test/auc"]}
    assert {"train/loss", "val/loss", "step"} <= {*texts(tmp_path / "all-loss.svg").split()}
    drawn = figures(
        together(*(child(i, {f"class_{number}/dice": decaying(0.1) for number in range(14)}) for i in range(2)))
    )
    assert [*drawn] == ["dice (1)", "dice (2)"]
    assert [axes.get_title(loc="left") for axes in drawn["dice (2)"].axes] == ["class_12/dice", "class_13/dice"]


def test_few_runs_have_names_by_differences_and_distinct_looks() -> None:
    runs = together(*(child(i, {"loss": decaying(0.1 * i)}, {"lr": 10.0**-i, "batch": 32}) for i in range(12)))
    names = legend(figures(runs)["loss"])
    assert names[:3] == ["lr=1", "lr=0.1", "lr=0.01"]
    assert not any("batch" in words for words in names)
    assert len({(look.colour, look.style) for look in scheme(runs).looks.values()}) == 12
    for count, goal in ((3, "minimize"), (30, "maximize")):
        runs = sweep(count)
        looks = scheme_of(runs.children, families_of(runs), "val/loss", goal, "wine_1_1").looks
        assert [
            place for place, look in looks.items() if look.name.startswith(f"best: {names_of(runs.children)[1]}")
        ] == [1]
    runs = together(*(child(i, {"loss": decaying(0.1)}, {"model": "vit" if i else "unet"}) for i in range(3)))
    assert names_of(runs.children) == ["model=unet", "model=vit (wine_1_1)", "model=vit (wine_1_2)"]


@pytest.mark.parametrize("count", [30, 300])
def test_many_runs_are_coloured_by_main_hyperparameter(count: int) -> None:
    """This hyperparameter explains the most variation. The legend names the best runs, and many folds or seeds share
    one colour.
    """
    runs = sweep(count)
    figure = figures(runs)["loss"]
    assert figure.axes[-1].get_ylabel() == "lr (log scale)"
    assert legend(figure)[0].startswith(f"best: {names_of(runs.children)[-1]} (val/loss ")
    assert legend(figure)[3:] == ["mean of the runs", "middle half of the runs"]
    assert (
        sum(len(lines.get_segments()) for lines in figure.axes[0].collections if hasattr(lines, "get_segments"))
        == count - 3
    )
    assert scheme(runs, goal="maximize").looks[0].name.startswith(f"best: {names_of(runs.children)[0]} ")
    found = scheme(together(*(child(i, {"val/loss": decaying(0.1)}, {"random_seed": i}) for i in range(20))))
    assert (found.scale, {look.name for look in found.looks.values()}) == (None, {""})
    assert len({look.colour for look in found.looks.values()}) == 1


@pytest.mark.parametrize("panels", [4, 8])
def test_colour_bar_stands_beside_any_number_of_panels(panels: int) -> None:
    runs = together(
        *(
            child(i, {f"part_{number}/loss": decaying(0.01 * i) for number in range(panels)}, {"lr": 10.0 ** (-i / 10)})
            for i in range(15)
        )
    )
    assert len(figures(runs)["loss"].axes) == panels + 1


def test_categories_get_a_colour_each() -> None:
    runs = together(
        *(
            child(i, {"val/loss": decaying((i % 3 + 1) / 10)}, {"model": ["unet", "vit", "resnet"][i % 3]})
            for i in range(45)
        )
    )
    assert [*scheme(runs).categories] == ["model=resnet", "model=unet", "model=vit"]
    assert {"model=resnet", "model=unet", "model=vit"} <= {*legend(figures(runs)["loss"])}


def test_failed_runs_and_those_without_the_metric_shift_no_other() -> None:
    runs = together(
        *(
            child(i, {"loss": decaying(0.1)}, {"lr": i + 1}, status=RunStatus.failed if i == 1 else RunStatus.completed)
            for i in range(4)
        )
    )
    figure = figures(runs)["loss"]
    assert figure.legends[0].get_title().get_text() == "1 of 4 failed, not shown: lr=2."
    assert "lr=2" not in legend(figure)
    assert {curve.child for curves in families_of(runs)[0].panels.values() for curve in curves} == {0, 2, 3}
    runs = together(
        child(0, {"loss": decaying(0.1)}, {"lr": 1}),
        child(1, {}, {"lr": 2}),
        child(2, {"loss": decaying(0.3)}, {"lr": 3}),
    )
    figure = figures(runs)["loss"]
    assert legend(figure)[:2] == ["lr=1", "lr=3"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1 of 3 runs without it"]
    colours = {look.name: look.colour for look in scheme(runs).looks.values()}
    drawn = {line.get_color(): line.get_ydata()[1] for line in figure.axes[0].lines if len(line.get_ydata()) == 20}
    assert drawn[colours["lr=3"]] == pytest.approx(math.exp(-0.3))


def test_single_values_stand_in_rows_with_their_mean() -> None:
    runs = together(*(child(i, {}, {"lr": i}, {"auc": 0.5 + i / 10, "ok": "yes", "none": None}) for i in range(3)))
    assert [*figures(runs)] == ["auc"]
    axes = figures(runs)["auc"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "lr=0",
        "lr=1",
        "lr=2",
        "mean ± standard deviation",
    ]
    low, high = axes.get_xlim()
    assert low < 0.5 < 0.7 < high
    axes = figures(together(*(child(i, {}, {"lr": 0.1**i}, {"auc": i / 200}) for i in range(200))))["auc"].axes[0]
    assert len(axes.collections[0].get_offsets()) == 200
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean, middle half of the runs"]


def test_the_mean_is_taken_at_the_steps_that_runs_have_in_common() -> None:
    curve = curve_of(0, Series([5, 1, 3, 1, 5], [50.0, 10.0, 30.0, 11.0, 51.0], [1.0, 2.0, 3.0, 4.0, 0.5]))
    assert curve is not None
    assert ([*curve.steps], [*curve.values]) == ([1, 3, 5], [11.0, 30.0, 50.0])
    even, odd = Curve(0, np.arange(0, 20, 2), np.zeros(10)), Curve(1, np.arange(1, 21, 2), np.ones(10))
    assert spread_of([even, odd]) is None
    both = spread_of(
        [Curve(0, np.arange(4), np.array([1.0, 2.0, np.nan, 4.0])), Curve(1, np.arange(6), np.full(6, 3.0))]
    )
    assert both is not None
    assert ([*both.steps], [*both.mean]) == ([0, 1, 3], [2.0, 2.5, 3.5])
    assert both.high[0] - both.mean[0] == pytest.approx(math.sqrt(2))
    longer = spread_of([Curve(i, np.arange(10 if i else 100), np.full(10 if i else 100, 1.0)) for i in range(4)])
    assert longer is not None
    assert longer.steps.max() == 9, "it ends where only the longest runs go on"
    many = spread_of([Curve(i, np.arange(3), np.full(3, float(i))) for i in range(13)])
    assert many is not None
    assert (many.low[0], many.mean[0], many.high[0]) == pytest.approx((3.0, 6.0, 9.0)), "the quartiles are their band"
    runs = together(*(child(i, {"loss": decaying(0.1, 20 if i else 12)}, {"lr": i}) for i in range(4)))
    for found, is_told in ((runs, True), (sweep(4), False)):
        assert ("mean where runs are missing (ended, or NaN)" in legend(figures(found)["loss"])) == is_told


@pytest.mark.large("takes long, and other tests run its branches")
def test_axes_are_logarithmic_over_decades_and_not_flattened(tmp_path: Path) -> None:
    runs = together(
        *(
            child(i, {"loss": [(s, 1e300 if i == 1 and s > 10 else 1 / (s + 1)) for s in range(20)]}, {"lr": i})
            for i in range(4)
        )
    )
    axes = figures(runs)["loss"].axes[0]
    assert axes.get_ylim()[1] < 2
    assert [text.get_text() for text in axes.texts] == ["9 values beyond the axis"]
    for speed, scale in ((0.5, "log"), (0.1, "linear")):
        assert figures(together(child(0, {"loss": decaying(speed, 40)})))["loss"].axes[0].get_yscale() == scale
    assert not limits_of([0.0001, *np.linspace(0.2, 1.0, 40)]).is_log  # a score that starts near 0
    runs = together(*(child(i, {}, {"lr": i}, {"n": 10**400 if i == 2 else i}) for i in range(3)))
    save_plots(runs, tmp_path / "n.png")
    assert [text.get_text() for text in figures(runs)["n"].axes[0].texts] == ["NaN or infinite values in 1 run"]


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


def test_figures_are_written_where_they_were_asked_for(tmp_path: Path) -> None:
    assert save_plots(sweep(3), tmp_path / "new" / "sweep.png") == [tmp_path / "new" / "sweep.png"]
    assert (tmp_path / "new" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sweep.png"]
    runs = together(child(0, {}, last={"a b": 1.0, "a:b": 2.0, "A_B": 3.0, "…": 4.0}))
    names = [path.name for path in save_plots(runs, tmp_path / "m.svg")]
    assert sorted(names) == sorted(["m-A_B.svg", "m-a_b_2.svg", "m-a_b_3.svg", "m-metric.svg"])
    for empty in (together(child(0, {}, last={"note": "text"})), together()):
        assert save_plots(empty, tmp_path / "x.png") == []
    assert not [*tmp_path.glob("*.png")]
    for name in ("x.pdf", "x", "x.png.txt"):
        with pytest.raises(BadUsage, match=re.escape("must be a .png or .svg file")):
            save_plots(sweep(3), tmp_path / name)
    (tmp_path / "y.png").mkdir()
    with pytest.raises(DiskFailed, match="Cannot write"):
        save_plots(sweep(3), tmp_path / "y.png")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("x", "y")) and path.is_file()]
    runs = together(
        *(child(i, {"val/a$b_c$^2": decaying(0.1)}, {"x_$i$": f"\\frac{{1}}{{{i}}} & <b>\n次"}) for i in range(2))
    )
    (path,) = save_plots(runs, tmp_path / "names.svg")
    shown = texts(path)
    assert "val/a$b_c$^2" in shown
    assert "x_$i$=\\frac{1}{0} & <b> 次" in shown


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    # Python treats a module that is None as not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BadUsage, match="needs matplotlib") as caught:
        save_plots(sweep(3), tmp_path / "x.png")
    assert re.fullmatch(r"Install it: pip install .*\[plot\].*", caught.value.hint)


@pytest.mark.large("draws large figures")
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    """The user's settings have no effect and do not change."""
    import matplotlib

    for suffix in ("png", "svg"):
        one, other = tmp_path / "one" / f"a.{suffix}", tmp_path / "other" / f"a.{suffix}"
        save_plots(sweep(15), one)
        with matplotlib.rc_context({"font.size": 33.0, "text.usetex": True, "svg.fonttype": "path"}):
            save_plots(sweep(15), other)
            assert matplotlib.rcParams["font.size"] == 33.0
        assert one.read_bytes() == other.read_bytes()
