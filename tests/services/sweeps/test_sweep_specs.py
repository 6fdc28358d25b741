"""From the options about many runs to a sweep: what each means, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec, value_text
from himl_cli.services.sweeps import SweepRequest, check_sweep, copies_remarks, seeded, sweep_of, sweep_remarks, sweep_text
from himl_cli.services.sweeps.seeds import without_seed


def sweep(*specs: str, on_cluster: bool = False, **options: Any) -> SweepSpec:
    return sweep_of(SweepRequest(sweep=specs, **options), on_cluster=on_cluster)


def refusal(*specs: str, on_cluster: bool = False, **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        sweep(*specs, on_cluster=on_cluster, **options)
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("0.1,0.01", SearchRange(Draw.choice, (0.1, 0.01))),
        ("1, 2 ,-3", SearchRange(Draw.choice, (1, 2, -3))),
        ("1e-3,.5,2.", SearchRange(Draw.choice, (0.001, 0.5, 2.0))),
        ("adam,sgd", SearchRange(Draw.choice, ("adam", "sgd"))),
        ("007,true,nan,1_000,1e999", SearchRange(Draw.choice, ("007", "true", "nan", "1_000", "1e999"))),
        ('"64,32",128', SearchRange(Draw.choice, ("64,32", 128))),
        ("3", SearchRange(Draw.choice, (3,))),
        ("a=b", SearchRange(Draw.choice, ("a=b",))),
        ("choice(1,2)", SearchRange(Draw.choice, (1, 2))),
        ("uniform(0, 1)", SearchRange(Draw.uniform, (0, 1))),
        ("uniform(high=1,low=0)", SearchRange(Draw.uniform, (0, 1))),
        ("loguniform(-9,-2.5)", SearchRange(Draw.loguniform, (-9, -2.5))),
        ("normal(0,1)", SearchRange(Draw.normal, (0, 1))),
        ("lognormal(0,0.5)", SearchRange(Draw.lognormal, (0, 0.5))),
        ("randint(10)", SearchRange(Draw.randint, (10,))),
        ("quniform(16,128,16)", SearchRange(Draw.quniform, (16, 128, 16))),
        ("qloguniform(0,5,0.5)", SearchRange(Draw.qloguniform, (0, 5, 0.5))),
        ("qnormal(1,2,3)", SearchRange(Draw.qnormal, (1, 2, 3))),
        ("qlognormal(1,2,3)", SearchRange(Draw.qlognormal, (1, 2, 3))),
    ],
)
def test_what_a_spec_means(spec: str, found: SearchRange) -> None:
    meant = sweep(f"x={spec}", max_trials=5).space["x"]
    assert meant == found
    assert [type(value) for value in meant.values] == [type(value) for value in found.values]


@given(
    st.lists(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=9, unique_by=lambda value: (type(value), value))
)
def test_numbers_reach_the_script_as_the_numbers_they_are(numbers: list[float]) -> None:
    meant = sweep(f"x={','.join(map(repr, numbers))}").space["x"].values
    assert list(meant) == numbers
    assert [type(value) for value in meant] == [type(value) for value in numbers]
    assert [float(value_text(value)) for value in meant] == [float(number) for number in numbers]


@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_is_refused_in_one_line(text: str) -> None:
    try:
        values = list(sweep(f"x={text}", max_trials=3).space["x"].values)
    except BadUsage as err:
        values = [err.hint]
    assert values
    assert "" not in values


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("x=uniform(1)", "uniform takes 2 arguments: low, high. | Write uniform(low,high)"),
        ("x=uniform(1,2,3)", "takes 2 arguments"),
        ("x=uniform(0,low=1)", "takes 2 arguments"),
        ("x=randint()", "randint takes 1 argument: n."),
        ("x=quniform(1,2)", "quniform takes 3 arguments: low, high, q."),
        ("x=", "the list is empty"),
        ("x=choice()", "the list is empty"),
        ("x=1,,2", "a value is empty"),
        ("x=1,2,", "a value is empty"),
        ("x=1,2,1", "the value 1 is given twice"),
        ("x=unifrom(0,1)", "no distribution 'unifrom'. | Did you mean 'uniform'?"),
        ("x=gaussian(0,1)", "no distribution 'gaussian'"),
        ("x=uniform", "uniform needs arguments"),
        ("x=uniform(0,1),3", "neither a list nor one distribution"),
        ("x=uniform(1,0)", "low is to be less than high"),
        ("x=uniform(1,1)", "low is to be less than high"),
        ("x=uniform(a,1)", "low is to be a number, not 'a'"),
        ("x=uniform(0,hgih=1)", "unknown 'hgih'. | Did you mean 'high'?"),
        ("x=normal(0,0)", "sigma is to be greater than 0"),
        ("x=normal(0,-1)", "sigma is to be greater than 0"),
        ("x=randint(0)", "n is to be a whole number of at least 1"),
        ("x=randint(2.5)", "n is to be a whole number"),
        ("x=quniform(0,1,0)", "q, the step, is to be greater than 0"),
        ("x=loguniform(1,1000)", "exponents of e"),
        ("x", "no name"),
        ("=1,2", "no name"),
        ("a b=1,2", "'a b' cannot be a hyperparameter"),
        ("3x=1,2", "'3x' cannot be a hyperparameter"),
    ],
)
def test_bad_specs_are_refused_by_name(spec: str, said: str) -> None:
    assert said in refusal(spec, max_trials=3)


def test_a_name_may_be_typed_as_the_option_it_becomes_but_once() -> None:
    assert list(sweep("--lr=1,2", "model.depth=3").space) == ["lr", "model.depth"]
    assert "'lr' is given twice" in refusal("lr=1,2", "--lr=3")


def test_lists_make_a_grid_of_all_points_and_distributions_a_random_search() -> None:
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


def test_a_sweep_that_was_made_elsewhere_is_checked_in_the_same_way() -> None:
    with pytest.raises(BadUsage, match="low is to be less than high"):
        check_sweep(SweepSpec({"x": SearchRange(Draw.uniform, (1, 0))}, "random", 3), on_cluster=False)
    with pytest.raises(BadUsage, match="not both"):
        check_sweep(SweepSpec({"x": SearchRange(Draw.choice, (1,))}, early_stop=EarlyStop("bandit", slack_factor=1, slack_amount=1)), on_cluster=False)
    with pytest.raises(BadUsage, match="search space is empty"):
        check_sweep(SweepSpec({}), on_cluster=True)


def test_a_sweep_in_one_line() -> None:
    asked = ("lr=0.10,0.01", 'layers="64,32",128')
    assert sweep_text(sweep(*asked)) == 'lr=0.1,0.01 layers="64,32",128, grid, 4 trials, minimize val/loss'
    text = sweep_text(
        sweep("x=normal(0,0.5)", sampling="random(seed=7)", max_trials=1, goal="maximize", primary_metric="acc", early_stop="median(delay_evaluation=3)")
    )
    assert text == "x=normal(0,0.5), random(seed=7), 1 trial, maximize acc, median(delay_evaluation=3)"
    assert "… (20 values), grid, 20 trials" in sweep_text(sweep(f"x={','.join(map(str, range(20)))}"))


def test_a_seed_is_drawn_where_whoever_draws_the_values_takes_one() -> None:
    drawing = sweep("x=uniform(0,1)", max_trials=3)
    assert len({seeded(drawing, on_cluster=False).seed for _ in range(9)} - {None}) > 1
    assert seeded(drawing, on_cluster=True).seed is not None
    assert seeded(drawing, on_cluster=True, sdk="v1").seed is None
    bayesian = sweep("x=uniform(0,1)", sampling="bayesian", max_trials=3)
    assert (seeded(bayesian, on_cluster=False).seed is None, seeded(bayesian, on_cluster=True).seed) == (False, None)
    given = sweep("x=uniform(0,1)", sampling="random(seed=7)", max_trials=3)
    assert seeded(given, on_cluster=False) == given
    assert without_seed(sweep_text(given)) == sweep_text(drawing)
    assert seeded(sweep("x=1,2"), on_cluster=False).seed is None


def test_random_trials_that_must_be_the_same_are_told() -> None:
    (_, said) = sweep_remarks(sweep("x=1,2", sampling="random", max_trials=5), ())
    assert said == "warning: there are 2 combinations, so that some of the 5 trials are the same; --sampling grid runs each once."
    assert len(sweep_remarks(sweep("x=1,2", sampling="random", max_trials=2), ())) == 1


def test_what_many_copies_of_a_large_snapshot_take_is_told() -> None:
    assert copies_remarks(sweep("x=1,2"), 300_000_000) == []
    (said,) = copies_remarks(sweep(different_seeds=300), 300_000_000)
    assert "300 x 300.0 MB, about 90.3 GB of disk" in said


def test_what_looks_like_a_secret_is_no_hyperparameter() -> None:
    for text in ("password=abc,def", "token=1,2", "x=hf_abcdefghijklmnopqrstuvwxyz"):
        assert "looks like a secret" in refusal(text)
    assert sweep("token_count=1,2").max_trials == 2
    assert sweep(crossval=2, crossval_arg="key").max_trials == 2


def test_what_loguniform_gives_is_said_and_how_to_write_what_was_probably_meant() -> None:
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


def test_values_of_different_types_are_different_values() -> None:
    assert sweep("x=1,1.0").space["x"].values == (1, 1.0)


def test_a_list_in_brackets_is_refused_with_the_right_spelling() -> None:
    assert refusal("lr=[0.1,0.2]").endswith("a list is written without brackets. | Write --sweep lr=0.1,0.2")


def test_what_max_trials_leaves_out_of_a_grid_is_said() -> None:
    assert "3 of 4 combinations are left out (--max_trials 1)." in sweep_remarks(sweep("a=1,2", "b=1,2", max_trials=1), ())
    assert len(sweep_remarks(sweep("a=1,2", "b=1,2", max_trials=4), ())) == 1


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("spec", ["randint({})", "uniform(0,{})", "quniform(0,1,{})", "normal(-{},1)"])
def test_a_number_that_is_too_long_for_floating_point_is_refused(spec: str, digits: int) -> None:
    assert "is to be a number, not '" in refusal(f"x={spec.format('9' * digits)}")


def test_a_choice_of_very_many_digits_is_a_word() -> None:
    assert sweep(f"x=1,{'9' * 5000}").space["x"].values == (1, "9" * 5000)
