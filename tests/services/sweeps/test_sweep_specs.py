"""What `--sweep` means for each hyperparameter, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import Draw, SearchRange, value_text
from tests.services.sweeps.asked import refusal, sweep


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


def test_what_looks_like_a_secret_is_no_hyperparameter() -> None:
    for text in ("password=abc,def", "token=1,2", "x=hf_abcdefghijklmnopqrstuvwxyz"):
        assert "looks like a secret" in refusal(text)
    assert sweep("token_count=1,2").max_trials == 2
    assert sweep(crossval=2, crossval_arg="key").max_trials == 2


def test_values_of_different_types_are_different_values() -> None:
    assert sweep("x=1,1.0").space["x"].values == (1, 1.0)


def test_a_list_in_brackets_is_refused_with_the_right_spelling() -> None:
    assert refusal("lr=[0.1,0.2]").endswith("a list is written without brackets. | Write --sweep lr=0.1,0.2")


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("spec", ["randint({})", "uniform(0,{})", "quniform(0,1,{})", "normal(-{},1)"])
def test_a_number_that_is_too_long_for_floating_point_is_refused(spec: str, digits: int) -> None:
    assert "is to be a number, not '" in refusal(f"x={spec.format('9' * digits)}")


def test_a_choice_of_very_many_digits_is_a_word() -> None:
    assert sweep(f"x=1,{'9' * 5000}").space["x"].values == (1, "9" * 5000)
