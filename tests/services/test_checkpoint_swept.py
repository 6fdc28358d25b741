"""Checkpoints of sweeps and folds."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import NotFound
from himl_cli.core.jobs import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC
from tests.support.runs import HERE, RecordedRuns, found


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def test_sweep_resolves_to_best_trial_only_for_select_best(runs: RecordedRuns) -> None:
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "sweep_1_aa_1"})
    for number in range(2):
        files = {f"{HERE}/best.ckpt": str(number), f"{HERE}/last.ckpt": str(number)}
        runs.add(f"sweep_1_aa_{number}", parent="sweep_1_aa", tags={HYPERPARAMETERS: '{"lr": 0.1}'}, files=files)
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.run is not None
    assert (taken.run.id, taken.why) == ("sweep_1_aa_1", "Run 'sweep_1_aa' is a sweep; its best trial is 'sweep_1_aa_1'.")
    with pytest.raises(NotFound, match="those below it may") as caught:
        found(runs, source="sweep_1_aa")
    assert caught.value.hint == "Name its best trial, himl checkpoint fetch sweep_1_aa_1, or add --select best."


def test_best_trial_is_computed_from_last_metric_values(runs: RecordedRuns) -> None:
    """For sweeps whose record does not name a best trial."""
    runs.add("sweep_1_aa", tags={MANY: "sweep", PRIMARY_METRIC: "val_acc", GOAL: "maximize"})
    for number, value in enumerate((0.5, 0.9)):
        trial = runs.add(f"sweep_1_aa_{number}", parent="sweep_1_aa", tags={HYPERPARAMETERS: '{"lr": 0.1}'}, files={f"{HERE}/best.ckpt": str(number)})
        if number == 0:
            with pytest.raises(NotFound, match=r"Sweep 'sweep_1_aa' has no best trial\."):
                found(runs, "best", source="sweep_1_aa")
        runs.log(trial, [("val_acc", value, 1, 1)])
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.run is not None
    assert taken.run.id == "sweep_1_aa_1"


def test_folds_have_no_best_one(runs: RecordedRuns) -> None:
    runs.add("folds_1_aa", tags={MANY: "crossval"})
    runs.add("folds_1_aa_0", parent="folds_1_aa", files={"outputs/log.txt": "x"})
    with pytest.raises(NotFound, match="none of its runs is the best") as caught:
        found(runs, "best", source="folds_1_aa")
    assert caught.value.hint == "Name one of its runs: 'himl runs show folds_1_aa' lists them."
    runs.add("folds_1_aa_1", parent="folds_1_aa", files={f"{HERE}/last.ckpt": "x"})
    for select in ("last", "best"):
        with pytest.raises(NotFound) as caught:
            found(runs, select, source="folds_1_aa")
        assert caught.value.hint == "Name one of its runs: 'himl runs show folds_1_aa' lists them."
    assert found(runs, source="folds_1_aa_1").names == [f"{HERE}/last.ckpt"]


def test_last_of_best_trial_is_used_if_none_is_named_best(runs: RecordedRuns) -> None:
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "sweep_1_aa_0"})
    runs.add("sweep_1_aa_0", parent="sweep_1_aa", tags={HYPERPARAMETERS: "{}"}, files={f"{HERE}/last.ckpt": "x", f"{HERE}/recovery_1.ckpt": "y"})
    taken = found(runs, "best", source="sweep_1_aa")
    assert taken.names == [f"{HERE}/last.ckpt"]
    assert taken.why == (
        "Run 'sweep_1_aa' is a sweep; its best trial is 'sweep_1_aa_0'. No name of its checkpoints says which is the best; its last one is taken."
    )
    with pytest.raises(NotFound, match="did not log it"):
        found(runs, "best", "val_loss", source="sweep_1_aa")
    with pytest.raises(NotFound, match="says that it is the best"):
        found(runs, "best", source="sweep_1_aa_0")
