"""What runs are called beside each other."""

from __future__ import annotations

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.logged import RunResults
from himl_cli.core.runs import Run
from himl_cli.services.runs.aggregate import labels_of, unique, value_of
from tests.services.aggregation.records import run

NOTHING = RunResults()


def labels(*runs: Run, child_arg: str | None = None) -> list[str]:
    return labels_of(runs, [NOTHING] * len(runs), child_arg)


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        pytest.param([run("a", values={"lr": 0.1, "depth": 2}), run("b", values={"lr": 0.01, "depth": 2})], ["0.1", "0.01"], id="one hyperparameter differs"),
        pytest.param(
            [run("a", values={"lr": 0.1, "depth": 2}), run("b", values={"lr": 0.01, "depth": 3})], ["lr=0.1, depth=2", "lr=0.01, depth=3"], id="several differ"
        ),
        pytest.param([run("a", values={"--lr": 0.1}), run("b", values={"--lr": 1})], ["0.1", "1"], id="dashes of the older SDK"),
        pytest.param([run("a", values={"x": 1}), run("b", values={"x": 1})], ["a", "b"], id="equal values: ids"),
        pytest.param([run("a", values={"lr": 0.1, "depth": 2})], ["lr=0.1, depth=2"], id="one trial: all values"),
        pytest.param([run("a", values={"x": 1}), run("b")], ["1", "b"], id="one without values: its id"),
        pytest.param([run("a", tags={"fold": "0", "team": "x"}), run("b", tags={"fold": "1", "team": "x"})], ["0", "1"], id="a tag"),
        pytest.param([run("a", tags={"build_number": "1"}), run("b", tags={"build_number": "2"})], ["a", "b"], id="tags that come by themselves do not count"),
        pytest.param([run("a", command="t.py --lr 0.1 --fast"), run("b", command="t.py --lr=0.2 --fast")], ["0.1", "0.2"], id="an argument"),
        pytest.param([run("a", command="t.py --x 'a b"), run("b", command="t.py --x c")], ["'a", "c"], id="an open quote"),
        pytest.param([run("a", display_name="encode"), run("b", display_name="train")], ["encode", "train"], id="names of steps"),
        pytest.param(
            [
                run("p_prep", tags={"himl.step": "prep"}, command="a.py --v 1"),
                run("p_train", tags={"himl.step": "train"}, command="a.py --v 2", display_name="fit"),
            ],
            ["prep", "fit"],
            id="steps of a pipeline by name",
        ),
        pytest.param([run("a", command="t.py --lr ${{search_space.lr}}"), run("b", command="t.py --lr 0.2")], ["a", "0.2"], id="a placeholder is no value"),
        pytest.param([run("p_3", parent="p"), run("p_1", parent="p")], ["3", "1"], id="numbers of trials"),
        pytest.param([run("a", display_name="same"), run("b", display_name="same")], ["a", "b"], id="ids"),
    ],
)
def test_runs_are_called_by_what_differs(runs: list[Run], wanted: list[str]) -> None:
    assert labels(*runs) == wanted


def test_too_many_tags_that_differ_make_no_label() -> None:
    runs = [run(name, tags={f"tag{number}": name for number in range(5)}, display_name=name.upper()) for name in "ab"]
    assert labels(*runs) == ["A", "B"]


def test_a_name_is_looked_for_in_one_place_after_the_other() -> None:
    logged = RunResults(parameters={"seed": "4"})
    one = run("a", values={"lr": 0.1}, tags={"lr": "tag", "fold": "2"}, command="train.py --lr 5 --random-seed 7 --fast")
    assert [value_of(name, one, logged) for name in ("lr", "--lr", "fold", "seed", "random_seed", "fast", "nope")] == [0.1, 0.1, "2", "4", "7", True, None]


def test_a_child_argument_names_the_runs_that_have_it() -> None:
    runs = [run("a", values={"lr": 0.1, "fold": 0}), run("b", values={"lr": 0.2, "fold": 0}), run("c", display_name="third")]
    assert labels(*runs, child_arg="lr") == ["0.1", "0.2", "third"]
    assert labels(*runs, child_arg="fold") == ["0 [0]", "0 [1]", "third"]
    with pytest.raises(BadUsage, match="None of the runs has a hyperparameter, tag, parameter or argument 'nope'") as caught:
        labels(*runs, child_arg="nope")
    assert caught.value.hint == "There are: lr, fold."


def test_no_two_labels_are_alike() -> None:
    assert unique(["a", "b", "a"]) == ["a [0]", "b", "a [2]"]
