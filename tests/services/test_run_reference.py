"""How a run may be written."""

from __future__ import annotations

import contextlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.services.runs.lookup import RunReference, parse_reference, split_recovery_id

names = st.text(string.ascii_letters + string.digits + "_", min_size=1).filter(lambda name: bool(name.strip("_")))
hexes = st.text("0123456789abcdef", min_size=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train_1772366400_0a1b2c3d", RunReference("train_1772366400_0a1b2c3d")),
        ("  abc  ", RunReference("abc")),
        ("train:abc", RunReference("abc", "train")),
        ("https://ml.azure.com/runs/abc_1?wsid=/subscriptions/s/resourcegroups/g/workspaces/w&tid=t", RunReference("abc_1")),
        ("https://ml.azure.com/experiments/id/0-1/runs/abc?tid=t#x", RunReference("abc")),
        ("HTTPS://ml.azure.com/runs/a%20b", RunReference("a b")),
        ("https://ml.azure.com/runs/abc/", RunReference("abc")),
    ],
)
def test_references(text: str, expected: RunReference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "a:b:c", ":b", "a:", "https://ml.azure.com/", "https://ml.azure.com/runs/", "http://[/runs/x"])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(BadUsage, match="is no"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exp:run_1", ("exp", "run_1")),
        ("user_branch_1234_abcde12", ("user_branch", "user_branch_1234_abcde12")),
        ("my_experiment_1605", ("my_experiment", "my_experiment_1605")),
        ("a_1_2_3", ("a_1", "a_1_2_3")),
        ("lab-exp_1772366400_0a1b2c3d", ("lab-exp", "lab-exp_1772366400_0a1b2c3d")),
        ("train_1772366400_0a1b2c3d", ("train", "train_1772366400_0a1b2c3d")),
    ],
)
def test_recovery_id_is_split_into_experiment_and_run_id(text: str, expected: tuple[str, str]) -> None:
    """By the rule of hi-ml; the experiment may have dashes."""
    assert split_recovery_id(text) == expected


@pytest.mark.parametrize("text", ["abc", "abc_def", "_1", "abc_1_xyz", "a.b_1_ff"])
def test_other_ids_are_no_recovery_ids(text: str) -> None:
    with pytest.raises(BadUsage, match=re.escape(f"'{text}' is no recovery id")):
        split_recovery_id(text)


@given(names, st.integers(min_value=0), hexes)
def test_the_experiment_is_all_before_the_last_two_parts(experiment: str, number: int, suffix: str) -> None:
    run_id = f"{experiment}_{number}_{suffix}"
    assert split_recovery_id(run_id) == (experiment, run_id)
    assert split_recovery_id(f"other:{run_id}") == ("other", run_id)


@given(st.text())
def test_any_text_is_a_reference_or_bad_usage(text: str) -> None:
    reference = None
    with contextlib.suppress(BadUsage):
        reference = parse_reference(text)
    assert reference is None or reference.run_id.strip()
