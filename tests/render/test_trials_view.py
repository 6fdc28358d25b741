"""The table of trials at the end of a submit and in `himl runs show`."""

from __future__ import annotations

from himl_cli.core.logged import SweepView, TrialView
from himl_cli.render.run_views import best_lines, trials_view
from tests.services.aggregation.records import run


def trials(*values: float | None) -> list[TrialView]:
    return [TrialView(run(f"sweep_{number}", tags={"himl.trial": str(number)}), {"fold": number}, value) for number, value in enumerate(values)]


def test_best_value_note_is_shown_after_submit_too() -> None:
    """The note says why the best trial is not the one with the best last value."""
    view = SweepView("loss", "minimize", trials(0.25, 0.5), best="sweep_1")
    told = "The best value at any step is that of sweep_1; the table has last values."
    assert list(best_lines(view))[-1] == told
    assert list(trials_view(view))[-1] == told


def test_folds_are_ordered_with_mean_and_std_and_no_best() -> None:
    view = SweepView("loss", "minimize", trials(3.0, 1.0, None, 2.0, 4.0, 5.0, 6.0), is_repeated=True)
    for lines in (list(best_lines(view)), list(trials_view(view))):
        assert lines[-1] == "loss: mean 3.5, std 1.87083 of 6 runs"
        assert not any("best" in line for line in lines)
        names = [line.split()[0] for line in lines if line.lstrip().startswith("sweep_")]
        assert names == sorted(names)
        assert len(names) >= 6


def test_one_fold_has_a_mean_and_no_spread() -> None:
    assert list(best_lines(SweepView("loss", "minimize", trials(0.5, None), is_repeated=True)))[-1] == "loss: mean 0.5 of 1 run"
