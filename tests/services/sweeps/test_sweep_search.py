"""How a space is searched: sampling, numbers of trials, policies, cross-validation and seeds, and what Azure ML takes of it."""

from __future__ import annotations

from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.services.submission.sweeps import check_sweep, sweep_text, with_seed, without_seed
from tests.services.sweeps.asked import refusal, sweep


def test_lists_give_grid_and_distributions_random_search() -> None:
    grid = sweep("lr=0.1,0.01", "depth=1,2,3", max_concurrent=50)
    assert (grid.sampling, grid.max_trials, grid.max_concurrent, grid.kind) == ("grid", 6, 6, "sweep")
    assert sweep("lr=0.1,0.01", max_trials=50).max_trials == 2
    assert sweep("lr=0.1,0.01", max_trials=1).max_trials == 1
    drawn = sweep("lr=uniform(0,1)", "depth=1,2", max_trials=7)
    assert (drawn.sampling, drawn.max_trials, drawn.seed) == ("random", 7, None)
    assert sweep("lr=0.1,0.01", sampling="random(seed=7)", max_trials=9).max_trials == 9
    assert (sweep("lr=1,2", sampling="bayesian(seed=3)", max_trials=4).seed) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampling": "bayes"}, "no sampling 'bayes'. | Did you mean 'bayesian'?"),
        ({"sampling": "annealing"}, "There are: grid, random, bayesian."),
        ({"sampling": "random(7)"}, "Write --sampling 'random(seed=7)'"),
        ({"sampling": "random(sede=7)"}, "Did you mean 'seed'?"),
        ({"sampling": "random(seed=x)"}, "seed is to be a whole number"),
        ({"sampling": "random(seed=-1)"}, "seed is to be a whole number"),
        ({"sampling": "grid(seed=1)"}, "unknown 'seed'"),
        ({"sampling": "grid"}, "'lr' is drawn from uniform, which has no grid"),
        ({"sampling": "random"}, "A random search needs the number of its trials. | Add --max_trials N"),
        ({"sampling": "bayesian"}, "A bayesian search needs"),
        ({"max_trials": 0}, "--max_trials 0: at least 1 is needed."),
        ({"max_trials": -3}, "--max_trials -3"),
        ({"max_trials": 10**7}, "100,000 are the most"),
        ({"max_trials": 5, "max_concurrent": 0}, "--max_concurrent 0: at least 1 is needed."),
        ({"max_trials": 5, "goal": "minimise"}, "--goal cannot be 'minimise'"),
        ({"max_trials": 5, "primary_metric": " "}, "--primary_metric is empty"),
        ({"max_trials": 5, "sampling": "bayesian", "early_stop": "median"}, "exclude each other"),
    ],
)
def test_bad_options_of_a_search_are_refused(options: dict[str, Any], said: str) -> None:
    assert said in refusal("lr=uniform(0,1)", **options)


def test_what_azure_refuses_is_refused_before_it_is_asked() -> None:
    assert "cannot draw 'lr' from normal" in refusal("lr=normal(0,1)", sampling="bayesian", max_trials=3)
    assert "on Azure ML cannot draw 'lr' from loguniform" in refusal("lr=loguniform(-9,-2)", sampling="bayesian", max_trials=3, on_cluster=True)
    assert sweep("lr=loguniform(-9,-2)", sampling="bayesian", max_trials=3).sampling == "bayesian"
    assert "Azure ML takes 1,000" in refusal("lr=uniform(0,1)", max_trials=1001, on_cluster=True)
    assert sweep("lr=uniform(0,1)", max_trials=1000, on_cluster=True).max_trials == 1000
    assert "--max_concurrent 101: Azure ML takes 100 at most." in refusal("lr=uniform(0,1)", max_trials=200, max_concurrent=101, on_cluster=True)
    assert sweep("lr=uniform(0,1)", max_trials=100, max_concurrent=500, on_cluster=True).max_concurrent == 100
    assert sweep("lr=uniform(0,1)", max_trials=200, on_cluster=True).max_concurrent is None
    many = ",".join(map(str, range(50)))
    assert "These are 2,500 trials" in refusal(f"a={many}", f"b={many}", on_cluster=True)


@pytest.mark.parametrize(
    ("spec", "sampling", "said"),
    [
        ("lr=quniform(0,1,0.1)", "random", "a whole number for q of quniform, not 0.1. | List the values"),
        ("lr=qlognormal(0,1,0.5)", "random", "a whole number for q of qlognormal"),
        ("lr=quniform(0.5,10,1)", "bayesian", "whole numbers only for quniform. | Use uniform(low,high)."),
        ("lr=quniform(0,200001,2)", "bayesian", "100,000 steps at most"),
        ("lr=1,a", "bayesian", "a list of numbers or a list of words"),
    ],
)
def test_search_spaces_that_azure_refuses_are_good_here(spec: str, sampling: str, said: str) -> None:
    assert said in refusal(spec, sampling=sampling, max_trials=3, on_cluster=True)
    assert sweep(spec, sampling=sampling, max_trials=3).max_trials == 3


@pytest.mark.parametrize(
    ("spec", "sampling"),
    [
        ("lr=quniform(0.5,10,2.0)", "random"),
        ("lr=1,a", "random"),
        ("lr=quniform(0,200000,2)", "bayesian"),
        ("lr=1,0.5", "bayesian"),
        ("lr=a,b", "bayesian"),
    ],
)
def test_search_spaces_that_azure_takes(spec: str, sampling: str) -> None:
    assert sweep(spec, sampling=sampling, max_trials=3, on_cluster=True).max_trials == 3


def test_truth_values_are_texts_to_azure() -> None:
    flags = SweepSpec({"x": SearchRange(Draw.choice, (True, False))}, "bayesian", 2)
    check_sweep(flags, on_cluster=True)
    with pytest.raises(BadUsage, match="not both in one"):
        check_sweep(SweepSpec({"x": SearchRange(Draw.choice, (True, 1))}, "bayesian", 2), on_cluster=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bandit(slack_factor=0.1,evaluation_interval=2, delay_evaluation=5)", EarlyStop("bandit", 2, 5, slack_factor=0.1)),
        ("bandit(slack_amount=3)", EarlyStop("bandit", slack_amount=3)),
        ("median", EarlyStop("median")),
        ("median_stopping(delay_evaluation=4)", EarlyStop("median", 1, 4)),
        ("truncation(truncation_percentage=20)", EarlyStop("truncation", truncation_percentage=20)),
    ],
)
def test_policies(text: str, found: EarlyStop) -> None:
    assert sweep("lr=1,2", early_stop=text).early_stop == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bandit", "bandit takes slack_factor or slack_amount, and neither is given."),
        ("bandit(slack_factor=0.1,slack_amount=1)", "bandit takes slack_factor or slack_amount, not both."),
        ("bandit(slack_factor=0)", "the slack is to be greater than 0"),
        ("bandit(slack_factor=x)", "slack_factor is to be a number, not 'x'"),
        ("bandit(0.1)", "Write --early_stop 'bandit(slack_factor=0.1)'"),
        ("bandit(slack=0.1)", "unknown 'slack'"),
        ("bandti(slack_factor=0.1)", "Did you mean 'bandit'?"),
        ("asha", "There are: bandit, median, truncation."),
        ("median(slack_factor=1)", "unknown 'slack_factor'"),
        ("median(evaluation_interval=0)", "evaluation_interval is to be at least 1"),
        ("median(evaluation_interval=1.5)", "evaluation_interval is to be a whole number, not 1.5"),
        ("median(delay_evaluation=-1)", "delay_evaluation cannot be less than 0"),
        ("truncation", "truncation_percentage is to be 1 to 99"),
        ("truncation(truncation_percentage=100)", "truncation_percentage is to be 1 to 99"),
    ],
)
def test_bad_policies_are_refused(text: str, said: str) -> None:
    assert said in refusal("lr=1,2", early_stop=text)


def test_cross_validation_and_seeds_are_sweeps_of_one_list() -> None:
    splits = sweep(crossval=5)
    assert (splits.space, splits.sampling, splits.max_trials, splits.kind) == (
        {"crossval_index": SearchRange(Draw.choice, (0, 1, 2, 3, 4))},
        "grid",
        5,
        "crossval",
    )
    assert list(sweep(crossval=2, crossval_arg="--fold").space) == ["fold"]
    seeds = sweep(different_seeds=3, seed_arg="seed")
    assert (seeds.space, seeds.kind) == ({"seed": SearchRange(Draw.choice, (0, 1, 2))}, "seeds")
    assert "--crossval 1: at least 2 are needed." in refusal(crossval=1)
    assert "--different_seeds 0: at least 1 is needed." in refusal(different_seeds=0)
    assert "--crossval_arg 'a b' cannot be an argument's name." in refusal(crossval=3, crossval_arg="a b")


def test_sweep_spec_built_in_code_is_validated() -> None:
    with pytest.raises(BadUsage, match="low is to be less than high"):
        check_sweep(SweepSpec({"x": SearchRange(Draw.uniform, (1, 0))}, "random", 3), on_cluster=False)
    with pytest.raises(BadUsage, match="not both"):
        check_sweep(SweepSpec({"x": SearchRange(Draw.choice, (1,))}, early_stop=EarlyStop("bandit", slack_factor=1, slack_amount=1)), on_cluster=False)
    with pytest.raises(BadUsage, match="search space is empty"):
        check_sweep(SweepSpec({}), on_cluster=True)


def test_seed_is_drawn_only_where_sampler_accepts_one() -> None:
    """Azure ML takes none for SDK v1 and bayesian sampling, and a grid needs none."""
    drawing = sweep("x=uniform(0,1)", max_trials=3)
    assert len({with_seed(drawing, on_cluster=False).seed for _ in range(9)} - {None}) > 1
    assert with_seed(drawing, on_cluster=True).seed is not None
    assert with_seed(drawing, on_cluster=True, sdk="v1").seed is None
    bayesian = sweep("x=uniform(0,1)", sampling="bayesian", max_trials=3)
    assert (with_seed(bayesian, on_cluster=False).seed is None, with_seed(bayesian, on_cluster=True).seed) == (False, None)
    given = sweep("x=uniform(0,1)", sampling="random(seed=7)", max_trials=3)
    assert with_seed(given, on_cluster=False) == given
    assert without_seed(sweep_text(given)) == sweep_text(drawing)
    assert with_seed(sweep("x=1,2"), on_cluster=False).seed is None


@pytest.mark.parametrize("option", ["crossval", "different_seeds"])
@pytest.mark.parametrize(("on_cluster", "most"), [(False, 100_000), (True, 1000)])
def test_a_number_that_no_list_could_hold_is_refused_at_once(option: str, on_cluster: bool, most: int) -> None:
    said = refusal(on_cluster=on_cluster, **{option: 10**18})
    assert said.startswith("These are 1,000,000,000,000,000,000 trials; ")
    assert said.endswith(f"| Give --{option} {most} at most.")


def test_as_many_values_as_there_may_be_trials_here() -> None:
    """Compared with each other one by one, they would take minutes."""
    assert sweep(different_seeds=100_000).max_trials == 100_000
    texts = [str(number) for number in range(50_000)]
    assert "the value 7 is given twice" in refusal(f"x={','.join([*texts, '7'])}")
