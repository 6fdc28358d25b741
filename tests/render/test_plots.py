"""Pictures of many runs: which figures there are, what stands in them, and how runs are told apart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from himl_cli.core.runs import RunStatus
from himl_cli.render.aggregation import save_plots
from himl_cli.render.plot_data import families_of, names_of
from tests.render.plotted import child, decaying, figures, legend, scheme, sweep, texts, together


def test_each_metric_family_is_a_figure_and_each_metric_a_panel(tmp_path: Path) -> None:
    runs = together(*(child(i, {"train/loss": decaying(0.1), "val/loss": decaying(0.2)}, {"lr": i / 10}, {"test/auc": 0.7 + i / 10}) for i in range(3)))
    assert [path.name for path in save_plots(runs, tmp_path / "all.svg")] == ["all-auc.svg", "all-loss.svg"]
    assert {name: [axes.get_title(loc="left") for axes in figure.axes] for name, figure in figures(runs).items()} == {
        "loss": ["train/loss", "val/loss"],
        "auc": ["test/auc"],
    }
    assert {"train/loss", "val/loss", "step"} <= {*texts(tmp_path / "all-loss.svg").split()}


def test_a_family_of_many_metrics_goes_on_in_another_figure() -> None:
    runs = together(*(child(i, {f"class_{number}/dice": decaying(0.1) for number in range(14)}) for i in range(2)))
    drawn = figures(runs)
    assert [*drawn] == ["dice (1)", "dice (2)"]
    assert [axes.get_title(loc="left") for axes in drawn["dice (2)"].axes] == ["class_12/dice", "class_13/dice"]


def test_few_runs_have_names_by_differences_and_distinct_looks() -> None:
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
def test_many_runs_are_coloured_by_main_hyperparameter(count: int) -> None:
    """The hyperparameter that explains most gives the colours; the best runs are named in the legend."""
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


def test_many_folds_or_seeds_are_drawn_in_one_colour() -> None:
    found = scheme(together(*(child(i, {"val/loss": decaying(0.1)}, {"random_seed": i}) for i in range(20))))
    assert found.scale is None
    assert len({look.colour for look in found.looks.values()}) == 1
    assert not any(look.name for look in found.looks.values())


def test_failed_runs_are_named_and_not_drawn() -> None:
    runs = together(*(child(i, {"loss": decaying(0.1)}, {"lr": i + 1}, status=RunStatus.failed if i == 1 else RunStatus.completed) for i in range(4)))
    figure = figures(runs)["loss"]
    assert figure.legends[0].get_title().get_text() == "1 of 4 failed, not shown: lr=2."
    assert "lr=2" not in legend(figure)
    assert {curve.child for curves in families_of(runs)[0].panels.values() for curve in curves} == {0, 2, 3}


def test_a_run_without_the_metric_shifts_no_other() -> None:
    runs = together(child(0, {"loss": decaying(0.1)}, {"lr": 1}), child(1, {}, {"lr": 2}), child(2, {"loss": decaying(0.3)}, {"lr": 3}))
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
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lr=0", "lr=1", "lr=2", "mean ± standard deviation"]
    low, high = axes.get_xlim()
    assert low < 0.5
    assert high > 0.7


def test_hundreds_of_single_values_are_a_cloud() -> None:
    runs = together(*(child(i, {}, {"lr": 0.1**i}, {"auc": i / 200}) for i in range(200)))
    axes = figures(runs)["auc"].axes[0]
    assert len(axes.collections[0].get_offsets()) == 200
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mean, middle half of the runs"]


def test_names_in_plots_are_not_parsed_as_formulas(tmp_path: Path) -> None:
    runs = together(*(child(i, {"val/a$b_c$^2": decaying(0.1)}, {"x_$i$": f"\\frac{{1}}{{{i}}} & <b>\n次"}) for i in range(2)))
    (path,) = save_plots(runs, tmp_path / "names.svg")
    shown = texts(path)
    assert "val/a$b_c$^2" in shown
    assert "x_$i$=\\frac{1}{0} & <b> 次" in shown


def test_long_names_are_shortened_to_fit_in_picture(tmp_path: Path) -> None:
    runs = together(*(child(i, {"loss": decaying(0.1), "b/loss": [(0, 0.1)]}, {"path": "/data/" + "x" * 300 + str(i)}) for i in range(9)))
    figure = figures(runs)["loss"]
    save_plots(runs, tmp_path / "long.svg")
    figure.draw_without_rendering()
    box, whole = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 > -0.02
    assert box.y0 > -0.02
    assert box.x1 <= whole[0] + 0.02
    assert box.y1 <= whole[1] + 0.02


@pytest.mark.parametrize("panels", [2, 4, 8])
def test_a_colour_bar_stands_beside_any_number_of_panels(panels: int) -> None:
    runs = together(*(child(i, {f"part_{number}/loss": decaying(0.01 * i) for number in range(panels)}, {"lr": 10.0 ** (-i / 10)}) for i in range(15)))
    assert len(figures(runs)["loss"].axes) == panels + 1
