"""What is said of a sweep before it starts: itself in one line, and what is probably not meant."""

from __future__ import annotations

import pytest

from himl_cli.services.submission.sweeps import copies_remarks, sweep_remarks, sweep_text
from tests.services.sweeps.asked import sweep


def test_a_sweep_in_one_line() -> None:
    asked = ("lr=0.10,0.01", 'layers="64,32",128')
    assert sweep_text(sweep(*asked)) == 'lr=0.1,0.01 layers="64,32",128, grid, 4 trials, minimize val/loss'
    text = sweep_text(
        sweep("x=normal(0,0.5)", sampling="random(seed=7)", max_trials=1, goal="maximize", primary_metric="acc", early_stop="median(delay_evaluation=3)")
    )
    assert text == "x=normal(0,0.5), random(seed=7), 1 trial, maximize acc, median(delay_evaluation=3)"
    assert "… (20 values), grid, 20 trials" in sweep_text(sweep(f"x={','.join(map(str, range(20)))}"))


def test_random_trials_that_must_be_the_same_are_told() -> None:
    (_, said) = sweep_remarks(sweep("x=1,2", sampling="random", max_trials=5), ())
    assert said == "warning: there are 2 combinations, so that some of the 5 trials are the same; --sampling grid runs each once."
    assert len(sweep_remarks(sweep("x=1,2", sampling="random", max_trials=2), ())) == 1


def test_what_many_copies_of_a_large_snapshot_take_is_told() -> None:
    assert copies_remarks(sweep("x=1,2"), 300_000_000) == []
    (said,) = copies_remarks(sweep(different_seeds=300), 300_000_000)
    assert "300 x 300.0 MB, about 90.3 GB of disk" in said


def test_loguniform_range_is_shown_with_correction() -> None:
    (_, said) = sweep_remarks(sweep("lr=loguniform(-9,-2)", max_trials=3), ())
    assert said == "lr: 0.000123 to 0.135, since the arguments of loguniform are exponents of e, as Azure ML has them."
    (_, warned) = sweep_remarks(sweep("lr=loguniform(0.0001,0.1)", max_trials=3), ())
    assert warned.startswith("warning: lr: 1 to 1.11,")
    assert warned.endswith("For values from 0.0001 to 0.1: --sweep 'lr=loguniform(-9.21,-2.303)'")
    (_, stepped) = sweep_remarks(sweep("lr=qloguniform(0.1,1,0.5)", max_trials=3), ())
    assert stepped.endswith("--sweep 'lr=qloguniform(-2.303,0,0.5)'")


@pytest.mark.parametrize(
    ("arguments", "warns"), [(("--lr", "0.1"), True), (("--lr=3",), True), (("--lr", "${{search_space.lr}}"), False), (("--lrx", "1"), False)]
)
def test_an_argument_that_the_script_gets_twice_is_warned_about(arguments: tuple[str, ...], warns: bool) -> None:
    assert any("--lr stands among the script's arguments" in remark for remark in sweep_remarks(sweep("lr=1,2"), arguments)) is warns


def test_what_max_trials_leaves_out_of_a_grid_is_said() -> None:
    assert "3 of 4 combinations are left out (--max_trials 1)." in sweep_remarks(sweep("a=1,2", "b=1,2", max_trials=1), ())
    assert len(sweep_remarks(sweep("a=1,2", "b=1,2", max_trials=4), ())) == 1
