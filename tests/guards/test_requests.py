"""The number of requests of each command, and the bytes of files that it transfers: for the first call on a machine,
and for a call with a warm cache.

After a change that makes fewer requests, lower the numbers. More requests are a regression, unless there is a
documented reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pytest

from himl_cli.core.events import ignore
from himl_cli.core.logged import WatchedRuns
from himl_cli.core.runs import RunQuery
from himl_cli.services.runs.find import ListRequest, list_runs
from himl_cli.services.runs.watch import watch_runs
from tests.azureml_double.faults import Latency
from tests.azureml_double.log import Seen
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace, add_sweep
from tests.support.azure import add_many, opened
from tests.support.running import Himl, write_files
from tests.support.tensorboard import NAME, event_bytes

HOMES = (
    "HOME",
    "USERPROFILE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "APPDATA",
    "LOCALAPPDATA",
)
TRAINED, SWEEP, CURVES = "trained_1_aa", "tuned_1_bb", "curves_1_cc"
SMALL = {f"outputs/{number:02d}.bin": bytes([number]) * 1000 for number in range(20)}
LARGE = {"outputs/large.bin": bytes(range(256)) * (9 << 12)}
FILES = {**SMALL, **LARGE, "outputs/checkpoints/last.ckpt": b"c" * 100_000}
DATA = {f"data/{number:03d}.bin": bytes([number]) * 1000 for number in range(30)}
SOURCE = {f"source/{number:02d}.bin": bytes([number]) * 1000 for number in range(20)} | {
    "source/large.bin": LARGE["outputs/large.bin"]
}
EVENTS = event_bytes([number / 100 for number in range(100)])
PROJECT = {
    "train.py": "print('trained')\n",
    "model/net.py": "width = 8\n",
    "environment.yml": "name: lab\ndependencies:\n- python=3.11\n- pip\n",
}

KINDS = {
    "sign in": r"^\w+ login\.",
    "resources": r"^\w+ management\.azure\.com/",
    "list": r"^GET \S+\.blob\.core\.windows\.net/\S+comp=list",
    "get": r"^GET \S+\.blob\.core\.windows\.net/",
    "put": r"^PUT \S+\.blob\.core\.windows\.net/",
    "services": r"^\w+ \S+\.api\.azureml\.ms/",
}
"""The first matching kind counts. Every request has one."""


@dataclass(frozen=True)
class Asked:
    """Requests by kind, and the bytes of downloaded (`came`) and uploaded (`went`) files."""

    requests: Mapping[str, int]
    came: int = 0
    went: int = 0


def asked(seen: Sequence[Seen]) -> Asked:
    kinds = [next(kind for kind, pattern in KINDS.items() if re.search(pattern, str(one))) for one in seen]
    came = sum(one.received for one, kind in zip(seen, kinds, strict=True) if kind == "get")
    went = sum(one.sent for one, kind in zip(seen, kinds, strict=True) if kind == "put")
    return Asked(Counter(kinds), came, went)


COMMANDS: dict[str, tuple[str, Asked, Asked]] = {
    "list of runs": (
        "runs list --num_runs 100",
        Asked({"sign in": 2, "resources": 1, "services": 8}),
        Asked({"services": 4}),
    ),
    "a run": (
        f"runs show {TRAINED}",
        Asked({"sign in": 2, "resources": 2, "services": 7}),
        Asked({"resources": 1, "services": 6}),
    ),
    "aggregate": (
        f"runs aggregate {SWEEP} --json",
        Asked({"sign in": 2, "resources": 1, "services": 26}),
        Asked({"services": 25}),
    ),
    "download": (
        f"download {TRAINED} --output_dir ../out_#",
        Asked({"sign in": 2, "resources": 3, "services": 2, "list": 1, "get": 22}, came=9_557_184),
        Asked({"services": 1, "list": 1, "get": 22}, came=9_557_184),
    ),
    "list of files": (
        f"download {TRAINED} --list",
        Asked({"sign in": 2, "resources": 3, "services": 2, "list": 1}),
        Asked({"services": 1, "list": 1}),
    ),
    "checkpoint": (
        f"checkpoint fetch {TRAINED} --output_dir ../out_#",
        Asked({"sign in": 2, "resources": 3, "services": 2, "list": 1, "get": 1}, came=100_000),
        Asked({"services": 1, "list": 1, "get": 1}, came=100_000),
    ),
    "event files": (
        f"tb {CURVES} --sync_only --run_logs_dir ../copies",
        Asked({"sign in": 2, "resources": 3, "services": 2, "list": 1, "get": 1}, came=len(EVENTS)),
        Asked({"services": 1, "list": 1}),
    ),
    "list of blobs": (
        "datastore list data",
        Asked({"sign in": 2, "resources": 2, "list": 1}),
        Asked({"resources": 1, "list": 1}),
    ),
    "blobs": (
        "datastore download data ../blobs_#",
        Asked({"sign in": 2, "resources": 2, "list": 1, "get": 30}, came=30_000),
        Asked({"resources": 1, "list": 1, "get": 30}, came=30_000),
    ),
    "upload": (
        "datastore upload source up#",
        Asked({"sign in": 2, "resources": 2, "list": 1, "get": 1, "put": 24}, came=233, went=9_457_392),
        Asked({"resources": 1, "list": 1, "get": 1, "put": 24}, came=233, went=9_457_392),
    ),
    "submit": (
        "submit train.py --cluster cpu-cluster -q",
        Asked({"sign in": 2, "resources": 7, "get": 1, "put": 28}, came=233, went=9_457_603),
        Asked({"resources": 2}),
    ),
    "tag": (
        f"runs tag {TRAINED} stage=#",
        Asked({"sign in": 2, "resources": 1, "services": 3}),
        Asked({"services": 2}),
    ),
}
"""By name: the arguments (`#` is another name in each call), the requests of the first call, and those of the second.
"""


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    write_files(project, {**PROJECT, **SOURCE})
    azure.put_artifacts(azure.add_run(TRAINED, "train", tags={"model": "unet"}), FILES)
    azure.put_artifact(azure.add_run(CURVES, "curves"), f"logs/{NAME}", EVENTS)
    add_sweep(
        azure,
        SWEEP,
        [{"lr": number / 10} for number in range(10)],
        lambda number, _: {"accuracy": [0.1, 0.2, number / 10]},
    )
    add_many(azure, 250)
    azure.put_blobs(DEFAULT, DATA)
    return azure


@pytest.mark.timeout(360)
def test_commands_make_no_more_requests_than_before(himl: Himl, seeded: StagedWorkspace, tmp_path: Path) -> None:
    """Each command has a separate home folder with empty caches."""
    found: dict[str, tuple[Asked, Asked]] = {}
    for number, (name, (text, _, _)) in enumerate(COMMANDS.items()):
        home = {variable: str(tmp_path / f"home_{number}") for variable in HOMES}
        calls = []
        for call in ("1", "2"):
            seeded.stage.log.clear()
            himl.ok(*text.replace("#", f"{number}_{call}").split(), env=home)
            calls.append(asked(seeded.stage.log.all()))
        found[name] = (calls[0], calls[1])
    assert found == {name: (cold, warm) for name, (_, cold, warm) in COMMANDS.items()}


GROWING: dict[str, str] = {"show": "show #", "tag": "tag # a=b", "delete": "delete # --yes"}
"""Commands for several runs, in place of `#`."""


def test_commands_for_several_runs_make_requests_in_proportion_and_at_once(
    himl: Himl, azure_environment: StagedWorkspace, project: Path
) -> None:
    """Twice as many runs take at most twice as many requests, many of which the service has at the same time."""
    azure = azure_environment
    azure.write_config(project)
    first, second = (
        [azure.add_run(f"train_{size}_{number}", "train").run_id for number in range(size)] for size in (4, 8)
    )
    himl.ok("runs", "show", first[0])
    azure.stage.faults.add(Latency(0.05), times=None)
    for name, text in GROWING.items():
        counts = []
        for ids in (first, second):
            azure.stage.log.clear()
            himl.ok("runs", *(word for part in text.split() for word in (ids if part == "#" else [part])))
            counts.append(len(azure.stage.log.all()))
        assert 0 < counts[1] <= 2 * counts[0], (name, counts)
        assert most_at_once(azure.stage.log.all()) > 2, name


def test_metrics_of_sweeps_in_a_list_take_no_request_each(azure_environment: StagedWorkspace, project: Path) -> None:
    """Those of their best trials, also to sort the list, take the same requests for 3 sweeps as for 12."""
    azure, counts = azure_environment, []
    for first, last in ((0, 1), (1, 3), (3, 12)):
        for number in range(first, last):
            values: list[dict[str, float]] = [{"lr": number - 0.5}, {"lr": number + 0.5}]
            add_sweep(azure, f"sweep_{number}", values, lambda _, values: {"accuracy": [float(values["lr"])]})
        with opened(azure, project) as workspace:
            azure.stage.log.clear()
            listed = list_runs(workspace, RunQuery("tuning"), ListRequest(sort="-accuracy"))
        counts.append(len(azure.stage.log.all()))
        assert [(run.id, listed.results[run.id].last["accuracy"]) for run in listed.runs] == [
            (f"sweep_{number}", number + 0.5) for number in reversed(range(last))
        ]
    assert counts[1] == counts[2] > 0, counts


def most_at_once(seen: Sequence[Seen]) -> int:
    """The largest number of requests that waited for their answers at the same time."""
    changes = sorted(change for one in seen for change in ((one.started, 1), (one.started + one.seconds, -1)))
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize("kind", ["list", "run", "sweep"])
def test_a_look_at_what_is_watched_is_one_request(azure_environment: StagedWorkspace, project: Path, kind: str) -> None:
    """This applies after earlier logs and metrics were read. A new list of runs, which this test excludes, takes the
    requests of `runs list` every tenth time.
    """
    azure = azure_environment
    names = [f"train_{number}_aa" for number in range(30 if kind == "list" else 1)]
    for name in names:
        run = azure.add_run(name, f"exp_{name[-4]}", status="Running")
        azure.add_metric(run, "val/loss", [0.5, 0.25])
        azure.append_log(run, "epoch 1\n")
    if kind == "sweep":
        names = [
            add_sweep(
                azure,
                SWEEP,
                [{"lr": number / 10} for number in range(150)],
                lambda *_: {"accuracy": [0.1]},
                statuses={3: "Running"},
            ).run_id
        ]
    counts = []
    with opened(azure, project) as workspace:
        watched = WatchedRuns([workspace.run(name) for name in names])
        looks = watch_runs(workspace, watched, ignore, newest=(lambda: watched.runs) if kind == "list" else None)
        for _ in range(6):
            next(looks)
        for number in range(40):
            azure.stage.log.clear()
            azure.append_log(run, f"epoch {number}\n")
            next(looks)
            counts.append(len(azure.stage.log.all()))
    assert set(counts) - {0} == {1}, counts
    if kind != "sweep":
        assert watched.points == {name: {"val/loss": [(0, 0.5), (1, 0.25)]} for name in names}
    assert "epoch 38" in watched.log if kind == "run" else (watched.sweep is None) is (kind == "list")
