"""Tests of local sweeps: the values of trials, early stopping, and the child runs that execute them."""

from __future__ import annotations

import argparse
import itertools
import math
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import once_free
from himl_cli.core.json_text import Spelled
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sampling import Trial, make_sampler, trials_to_stop
from himl_cli.core.sweeps import (
    Draw,
    EarlyStop,
    Scalar,
    SearchRange,
    SweepSpec,
    hyperparameters_of,
    trial_tags,
    value_text,
)
from himl_cli.workspaces.local.children import Children
from himl_cli.workspaces.local.launch import events_of
from himl_cli.workspaces.local.launch_request import Plan
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_process import TERMINATED, RunProcess
from himl_cli.workspaces.local.run_store import Database, Outcome, RunStore


def test_new_metric_values_of_many_runs_come_in_logged_order(tmp_path: Path) -> None:
    metrics = MetricStore(Database(tmp_path / "workspace.db", create=True))
    metrics.log("r39999", [("loss", 1.0, 0, 0), ("other", 9.0, 0, 0)])
    metrics.log("r0", [("loss", 2.0, 0, 0), ("loss", 3.0, 1, 0)])
    metrics.log("r39999", [("loss", 4.0, 1, 0)])
    places = {f"r{number}": 0 for number in range(40_000)}
    found = metrics.values_after("loss", places)
    assert [(run, value) for run, _, value in found] == [("r39999", 1.0), ("r0", 2.0), ("r0", 3.0), ("r39999", 4.0)]
    version = metrics.version()
    assert metrics.version() == version
    MetricStore(Database(tmp_path / "workspace.db")).log("r", [("loss", 1.0, 0, 0)])
    assert metrics.version() != version, "only what others write changes it"
    assert metrics.values_after("loss", {**places, "r0": found[1][1], "r39999": found[3][1]}) == [found[2]]


def children_of_a_sweep(tmp_path: Path, stopping: Outcome | None = None) -> Children:
    (tmp_path / "r" / "user_logs").mkdir(parents=True)
    plan = Plan(str(tmp_path / "r"), "sweep", Run("r", "exp"), [])
    return Children(plan, RunStore(Database(tmp_path / "workspace.db", create=True)), lambda: stopping)


def test_cancel_is_repeated_for_child_that_starts_late(tmp_path: Path) -> None:
    stopping = Outcome(RunStatus.failed, reason=TERMINATED)
    children, folder = children_of_a_sweep(tmp_path, stopping), RunFolder(tmp_path / "r_0")
    folder.path.mkdir()
    folder.allow_to_run()
    children.add_ended("r_0", "")
    children.cancel("r_0", "a verdict")
    assert (folder.is_cancel_asked(), folder.why_canceled()) == (True, "a verdict")
    folder.allow_to_run()  # as the supervisor does when it starts the run
    assert children.stopping == stopping
    assert folder.is_cancel_asked()


def test_child_that_cannot_be_stopped_keeps_no_other_from_it(tmp_path: Path) -> None:
    children = children_of_a_sweep(tmp_path, Outcome(RunStatus.canceled, reason="canceled"))
    for number in range(4):
        folder = RunFolder(tmp_path / f"r_{number}")
        folder.path.mkdir()
        folder.allow_to_run()
        if number % 2 == 0:
            (folder.path / "canceled").mkdir()
        children.add_ended(folder.run_id, "")
    assert children.stopping is not None
    assert [RunFolder(tmp_path / f"r_{number}").is_cancel_asked() for number in range(4)] == [False, True, False, True]
    assert (tmp_path / "r" / "user_logs" / "std_log.txt").read_text().count("himl retries it.\n") == 2


def test_an_end_is_not_lost_while_runs_cannot_be_read(tmp_path: Path) -> None:
    children = children_of_a_sweep(tmp_path)
    children.store.add(Run("r_0", "exp"))
    children.store.end("r_0", RunStatus.completed)
    children.add_ended("r_0", "")
    with closing(sqlite3.connect(tmp_path / "workspace.db")) as other:
        other.execute("ALTER TABLE runs RENAME TO away")
        assert [children.next_end(), children.next_end(), len(children.at_work)] == [None, None, 1]
        other.execute("ALTER TABLE away RENAME TO runs")
    found = children.next_end()
    assert found is not None
    assert (found[0] and found[0].status, found[1:], len(children.at_work)) == (RunStatus.completed, ("r_0", ""), 0)
    log = (tmp_path / "r" / "user_logs" / "std_log.txt").read_text()
    assert re.fullmatch(r"\S+ Cannot use '.*': no such table: runs\. himl retries it\.\n", log)


class OnAFullDisk(RunProcess):
    def work(self, store: RunStore) -> Outcome:
        raise DiskFailed("No space left to write 'workspace.db'.")


def test_full_disk_fails_the_run_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    before = signal.getsignal(signal.SIGTERM)
    try:
        OnAFullDisk(Run("r", "exp"), str(folder), folder, again=False).run()
    finally:
        signal.signal(signal.SIGTERM, before)
    run = RunStore(Database(tmp_path / "workspace.db")).get("r")
    assert run is not None
    assert (run.status, run.reason) == (RunStatus.failed, "No space left to write 'workspace.db'")
    assert capsys.readouterr().err == "", "no traceback"


def test_what_else_a_supervisor_prints_is_passed_over() -> None:
    script = 'import sys; sys.stdout.buffer.write(b\'hello\\n\\xff\\n[1]\\n{}\\n{"event": "recorded"}\\n\\n7\\n\')'
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert list(events_of(process)) == [{"event": "recorded"}]


def test_a_file_that_is_in_use_is_tried_again_for_a_while() -> None:
    tries = []

    def act() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise PermissionError("in use")
        return len(tries)

    assert once_free(act, seconds=60.0) == 3
    tries.clear()
    with pytest.raises(PermissionError):
        once_free(act, seconds=0.0)


VALUES = st.floats(allow_nan=True, allow_infinity=True, width=32)
METRICS = st.lists(st.tuples(st.lists(VALUES, max_size=8), st.booleans()), max_size=8)
BANDIT, MEDIAN = EarlyStop("bandit", slack_factor=0.2), EarlyStop("median")
POLICIES = st.sampled_from(
    [
        *(
            BANDIT,
            EarlyStop("bandit", slack_amount=0.5, evaluation_interval=2),
            EarlyStop("median", delay_evaluation=2),
        ),
        EarlyStop("truncation", truncation_percentage=30),
    ]
)


def trials(*metrics: Sequence[float], over: Sequence[int] = ()) -> list[Trial]:
    return [Trial(index, {}, tuple(metric), is_over=index in over) for index, metric in enumerate(metrics)]


def stopped(policy: EarlyStop, goal: str, *metrics: Sequence[float], over: Sequence[int] = ()) -> list[int]:
    return list(trials_to_stop(policy, goal, trials(*metrics, over=over)))


def test_bandit_compares_best_values_at_the_same_interval() -> None:
    for goal, best, kept, beyond in (
        ("maximize", 0.8, 0.67, 0.66),  # 0.8 / 1.2 is 0.667, as in Azure ML's documentation
        ("minimize", 0.5, 0.6, 0.61),
        ("minimize", -1.0, -0.84, -0.83),
        ("maximize", -1.0, -1.19, -1.21),
    ):
        found = trials_to_stop(BANDIT, goal, trials([best], [kept], [beyond], over=[0]))
        assert list(found) == [2]
        assert "stopped early by bandit at interval 1" in found[2]
        assert "trial 0" in found[2]
    for goal, kept, beyond in (("minimize", 1.2, 1.3), ("maximize", 0.8, 0.7)):
        assert stopped(EarlyStop("bandit", slack_amount=0.25), goal, [1.0], [kept], [beyond]) == [2]
    policy = EarlyStop("bandit", slack_factor=0.1)
    assert stopped(policy, "minimize", [0.5, 0.4, 0.1], [0.43, 9.0]) == [], (
        "the first had 0.4 at interval 2, not yet 0.1"
    )
    assert stopped(policy, "minimize", [0.5, 0.4, 0.1], [0.45, 0.45, 0.45]) == [1]
    policy = EarlyStop("bandit", slack_factor=0.1, evaluation_interval=2, delay_evaluation=4)
    for logged, interval in ((3, ""), (4, "at interval 4"), (5, "at interval 4")):
        reason = trials_to_stop(policy, "minimize", trials([0.1] * 8, [0.9] * logged, over=[0])).get(1, "")
        assert (interval in reason, bool(reason)) == (True, bool(interval))


def test_median_compares_the_best_value_with_the_averages_of_all() -> None:
    assert stopped(MEDIAN, "minimize", [1.0, 3.0], [2.0, 2.0], [4.0, 4.0]) == [2], (
        "running averages 2, 2 and 4: their median is 2"
    )
    assert stopped(MEDIAN, "maximize", [1.0, 1.0], [2.0, 2.0], [4.0, 4.0]) == [0]
    assert stopped(MEDIAN, "minimize", [5.0, 6.0]) == [], "alone it is its own median"
    assert stopped(MEDIAN, "minimize", [9.0], [9.0], [5.0, 5.0, 5.0], over=[0, 1]) == [], (
        "those that were stopped count"
    )
    assert stopped(MEDIAN, "minimize", [math.nan], [5.0], [1.0], over=[1, 2]) == [], "no number is compared with none"


def test_truncation_stops_the_worst_of_those_that_came_as_far() -> None:
    policy, five = EarlyStop("truncation", truncation_percentage=40), [[0.1], [0.5], [0.3], [0.4], [0.2]]
    assert sorted(stopped(policy, "minimize", *five)) == [1, 3]
    assert sorted(stopped(policy, "maximize", *five)) == [0, 4]
    assert stopped(policy, "minimize", *five, over=[1, 3]) == [], "those that were stopped count"
    assert stopped(EarlyStop("truncation", truncation_percentage=30), "minimize", [0.1], [0.2], [0.3]) == []
    policy = EarlyStop("truncation", truncation_percentage=50)
    assert stopped(policy, "maximize", [0.1], [0.3, 0.2], [0.4, 0.4], over=[0]) == [1], "shorter ones do not"
    assert stopped(policy, "maximize", [0.1, 0.1], [0.3, 0.2], over=[0]) == [], "the finished one is the worst"


@pytest.mark.large("takes long, and other tests run its branches")
@settings(max_examples=50)
@given(policy=POLICIES, goal=st.sampled_from(["minimize", "maximize"]), metrics=METRICS)
def test_early_stop_handles_any_metric_and_keeps_best_trial(
    policy: EarlyStop, goal: str, metrics: list[tuple[list[float], bool]]
) -> None:
    all_trials = [Trial(index, {}, tuple(metric), is_over=is_over) for index, (metric, is_over) in enumerate(metrics)]
    mirrored = [
        Trial(index, {}, tuple(-value for value in metric), is_over=is_over)
        for index, (metric, is_over) in enumerate(metrics)
    ]
    found = trials_to_stop(policy, goal, all_trials)
    assert set(found) == set(trials_to_stop(policy, "maximize" if goal == "minimize" else "minimize", mirrored))
    assert all(not all_trials[index].is_over for index in found)
    finite = [[value for value in trial.metric if math.isfinite(value)] for trial in all_trials]
    assert all(finite[index] for index in found)
    same_length = (
        len({len(trial.metric) for trial in all_trials}) == 1 and bool(all_trials[0].metric) if all_trials else False
    )
    if same_length and policy.evaluation_interval == 1 and any(finite):
        pick = min if goal == "minimize" else max
        best = pick(value for values in finite for value in values)
        assert not {index for index, values in enumerate(finite) if best in values} <= set(found), (
            "of the best ones one at least goes on"
        )


def spec(
    sampling: str, space: dict[str, SearchRange], trials: int, seed: int | None = None, goal: str = "minimize"
) -> SweepSpec:
    return SweepSpec(space, sampling, trials, goal=goal, seed=seed)


def choice(*values: Scalar) -> SearchRange:
    return SearchRange(Draw.choice, values)


def draws(found: SearchRange, count: int, seed: int = 0) -> list[Any]:
    sampler = make_sampler(spec("random", {"x": found}, count, seed))
    return [values["x"] for index in range(count) if (values := sampler(index, ())) is not None]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_argparse_reads_every_number(value: float) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=type(value))
    assert parser.parse_args(["--lr", value_text(value)]).lr == value


def test_grid_yields_each_combination_once_last_key_fastest() -> None:
    sampler = make_sampler(spec("grid", {"lr": choice(0.1, 0.01), "depth": choice(1, 2, 3)}, 6))
    assert [sampler(index, ()) for index in range(6)] == [
        {"lr": lr, "depth": depth} for lr, depth in itertools.product((0.1, 0.01), (1, 2, 3))
    ]
    space = {"a": choice("x", "y"), "b": choice(1, 2)}
    assert (sampler(6, ()), make_sampler(spec("grid", space, 100))(4, ())) == (None, None)
    assert [make_sampler(spec("grid", space, 3))(index, ()) for index in (2, 3)] == [{"a": "y", "b": 1}, None]


@pytest.mark.large("takes long, and other tests run its branches")
@settings(max_examples=50)
@given(low=st.floats(-50, 50), width=st.floats(1e-3, 100), seed=st.integers(0, 2**31 - 1), index=st.integers(0, 50))
def test_values_depend_on_seed_number_and_name_alone(low: float, width: float, seed: int, index: int) -> None:
    uniform, depth, high = SearchRange(Draw.uniform, (low, low + width)), SearchRange(Draw.randint, (100,)), low + width
    alone = make_sampler(spec("random", {"lr": uniform}, 100, seed))(index, ())
    past = [Trial(number, {"lr": 0.5}, (float(number),), is_over=True) for number in range(index)]
    together = make_sampler(spec("random", {"depth": depth, "lr": uniform}, 51, seed))(index, past)
    assert alone is not None
    assert together is not None
    assert together["lr"] == alone["lr"]
    assert draws(uniform, 5, seed) != draws(uniform, 5, seed + 1)
    assert all(low <= value <= high for value in draws(uniform, 20, seed))
    assert set(draws(SearchRange(Draw.randint, (3,)), 20, seed)) <= {0, 1, 2}
    assert all(
        math.exp(low) * 0.999 <= value <= math.exp(high) * 1.001
        for value in draws(SearchRange(Draw.loguniform, (low, high)), 20, seed)
    )


def test_random_values_match_mean_and_deviation() -> None:
    for draw, arguments, mean, deviation in (
        (Draw.uniform, (2, 4), 3.0, 2 / math.sqrt(12)),
        (Draw.normal, (5, 2), 5.0, 2.0),
        (Draw.randint, (11,), 5.0, math.sqrt(10)),
        (Draw.qnormal, (50, 10, 1), 50.0, 10.0),
        (Draw.choice, (0, 10), 5.0, 5.0),
    ):
        values = draws(SearchRange(draw, arguments), 4000)
        assert fmean(values) == pytest.approx(mean, abs=4 * deviation / math.sqrt(4000))
        assert stdev(values) == pytest.approx(deviation, rel=0.06)
    # The arguments are exponents.
    for draw, arguments in ((Draw.loguniform, (-6, -2)), (Draw.lognormal, (-4, 1))):
        assert fmean(math.log(value) for value in draws(SearchRange(draw, arguments), 4000)) == pytest.approx(
            -4, abs=0.08
        )


def test_quantized_values_are_multiples_of_step_and_of_its_type() -> None:
    for draw, arguments in (
        (Draw.quniform, (1, 99)),
        (Draw.qloguniform, (0, 5)),
        (Draw.qnormal, (30, 9)),
        (Draw.qlognormal, (3, 0.5)),
    ):
        for step in (2, 0.1):
            values = draws(SearchRange(draw, (*arguments, step)), 100)
            assert {type(value) for value in values} == {type(step)}
            assert all(value / step == pytest.approx(round(value / step)) for value in values)
            assert all(len(repr(value)) < 8 for value in values), "no 0.30000000000000004"


def distances(found: Sequence[Trial]) -> list[float]:
    return [abs(float(trial.values["x"]) - 0.3) for trial in found]


def searched(
    space: dict[str, SearchRange],
    trials: int,
    stop_at: int | None = None,
    past: list[Trial] | None = None,
    goal: str = "minimize",
) -> list[Trial]:
    """Return the trials of a Bayesian search, run one after another up to *stop_at*, continuing from *past*."""
    sampler, trial_list = make_sampler(spec("bayesian", space, trials, goal=goal)), past or []
    for index in range(len(trial_list), trials if stop_at is None else stop_at):
        values = sampler(index, trial_list)
        assert values is not None
        score = (float(values["x"]) - 0.3) ** 2
        trial_list.append(Trial(index, values, (score if goal == "minimize" else -score,), is_over=True))
    return trial_list


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_bayesian_search_converges(goal: str) -> None:
    space = {"x": SearchRange(Draw.uniform, (-5, 5)), "kind": choice("a", "b")}
    trials = searched(space, 40, goal=goal)
    assert min(distances(trials[20:])) < 0.3
    assert fmean(distances(trials[25:])) < fmean(distances(trials[:10]))
    without_value = [
        Trial(trial.index, trial.values, metric, is_over=True)
        for trial, metric in zip(trials, [(), (math.nan,), (math.inf, 0.5)], strict=False)
    ]
    assert make_sampler(spec("bayesian", space, 10))(3, without_value) is not None


def test_resumed_bayesian_search_learns_from_earlier_trials() -> None:
    space = {
        "x": SearchRange(Draw.quniform, (-5, 5, 0.1)),
        "n": SearchRange(Draw.randint, (8,)),
        "lr": SearchRange(Draw.loguniform, (-9, -2)),
        "batch": SearchRange(Draw.qloguniform, (2, 5, 8)),
    }
    before = searched(space, 40, stop_at=20)
    after = searched(space, 40, past=list(before))
    assert after[:20] == before
    assert fmean(distances(after[28:])) < 2.0
    assert {type(trial.values["n"]) for trial in after} == {int}
    assert all(int(trial.values["batch"]) % 8 == 0 for trial in after)
    assert make_sampler(spec("bayesian", space, 40))(40, after) is None


def test_resumed_bayesian_search_knows_choices_by_their_spelling() -> None:
    space, past = {"v": choice(3.1, Spelled("3.10"), Spelled(".5"))}, list[Trial]()
    for index in range(12):
        values = make_sampler(spec("bayesian", space, 12))(index, past)
        assert values is not None
        stored = hyperparameters_of(trial_tags({}, index, values))
        assert value_text(stored["v"]) == value_text(values["v"])
        past.append(Trial(index, stored, (1.0,), is_over=True))
    assert {value_text(trial.values["v"]) for trial in past} == {"3.1", "3.10", ".5"}


def test_resumed_bayesian_search_goes_on_as_if_never_stopped() -> None:
    space = {"x": SearchRange(Draw.uniform, (-5, 5)), "lr": SearchRange(Draw.loguniform, (-9, -2))}
    whole = searched(space, 20)
    for stop_at in (4, 15):
        assert searched(space, 20, past=searched(space, 20, stop_at=stop_at)) == whole
    assert len({trial.values["x"] for trial in whole}) == 20
    one = make_sampler(spec("bayesian", space, 40))
    before, past = searched(space, 40, stop_at=20), list[Trial]()
    for index in range(26):
        values = one(index, past)
        assert values is not None
        past.append(before[index] if index < 20 else Trial(index, values, (), is_over=False))
    wanted = one(26, past)
    resumed = make_sampler(spec("bayesian", space, 40))
    assert resumed(26, past) == wanted
    assert make_sampler(spec("bayesian", space, 40))(26, before) != wanted, "those that are running count"
    ended = [*past[:20], *(Trial(trial.index, trial.values, (0.5,), is_over=True) for trial in past[20:])]
    assert resumed(27, ended) is not None
