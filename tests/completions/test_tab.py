"""Candidates for Tab: names in the local workspace, `himl --complete`, which the scripts call, and the real shells,
which all offer the same.
"""

from __future__ import annotations

import gc
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from himl_cli.commands.complete import AZURE_OPTIONS
from himl_cli.commands.groups import HIML_OLD_NAMES
from himl_cli.commands.table import COMMANDS
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.local.completion_names import EXPERIMENTS, FEW, MOST, NEWEST, completion_names
from tests.azureml_double.seeding import StagedWorkspace
from tests.completions.shells import SCRIPTS, Fish, TypedShell, started, values
from tests.support.running import Himl
from tests.support.runs import RecordedRuns, posix

LOADED = """
import json, sys
sys.argv = ["himl", "--complete", *sys.argv[1:]]
from himl_cli.__main__ import main
main()
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = {"typer", "rich", "azure", "msgspec", "yaml", "socket", "ssl", "asyncio", "subprocess", "importlib.metadata"}
HEAVY |= {"himl_cli.app", "himl_cli.workspaces.resolve"}
UNSAFE = ["a b", "a'b", 'a"b', "$(touch x)", "`touch x`", "a;b", "a\nb", "größe", "-rf", "~root"]
UNSAFE += ["a:b", "a=b", "a,b", "{a,b}", "*", "", "!x", "\x1b[31m", "a\\b"]

FILES = {"bash": "himl.bash", "zsh": "_himl", "fish": "himl.fish"}
RUNS = {"digits_1_aa", "train_1_aa", "train_2_bb", "sweep_3_cc"}
TRIALS = {"sweep_3_cc_0", "sweep_3_cc_1"}
STATUSES = {status.value for status in RunStatus}

OFFERS = {
    "himl ": set(COMMANDS),
    "himl runs sh": {"show"},
    "himl runs list --num": {"--num_runs"},
    "himl runs list --format ": {"human", "table", "csv", "tsv", "json", "quiet"},
    "himl runs show --format ": {"human", "json", "quiet"},
    "himl datastore list --format ": {"human", "table", "csv", "tsv", "json", "quiet"},
    "himl submit --no_wait --wai": set(),
    "himl runs list --status ": STATUSES,
    "himl runs list --status Completed,Fa": {"Failed"},
    "himl runs show ": RUNS | {"latest"},
    "himl runs show train_1_aa tr": {"train_2_bb"},
    "himl runs show sweep_3_cc": {"sweep_3_cc"} | TRIALS,
    "himl runs show --run-ids tr": {"train_1_aa", "train_2_bb"},
    "himl runs show -w ../other ": {"else_1_ee", "latest"},
    "himl runs show --workspace='../the other' ": {"else_2_ff", "latest"},
    "himl runs show --config_file lab.json tr": set(),
    "himl runs list --experiment ": {"digits", "sweep", "train"},
    "himl submit t": {"train.py", "things"},
    "himl submit train.py --cluster ": {"local"},
    "himl submit train.py -- t": {"train.py", "things", "train.log"},
    "himl datastore upload train.log t": set(),
}

TRAPS = ["'$(touch evil)'", '"$(touch evil)"', "'(touch evil)'", "'", '"$']
NONSENSE: Sequence[list[str]] = (
    [],
    [""],
    ["="],
    ["trials="],
    ["runs=\x1b[31m"],
    ["runs=", "himl", "-w"],
    ["runs=", "-w", "~nobody-of-that-name/x"],
)


def names(recorded: RecordedRuns, kind: Literal["runs", "experiments"], prefix: str) -> Sequence[str]:
    return completion_names(recorded.folder / ".himl", kind, prefix)


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


@pytest.fixture
def trained(recorded: RecordedRuns) -> RecordedRuns:
    for name in ("train_1_aa", "train_2_bb", "digits_3_cc"):
        recorded.add(name, experiment=name.partition("_")[0])
    return recorded


def test_runs_come_newest_first_and_trials_after_the_whole_id(recorded: RecordedRuns) -> None:
    for name in ("train_1_aa", "other_1_bb", "train_0_cc", "Train_2_dd"):
        recorded.add(name)
    assert names(recorded, "runs", "") == ["Train_2_dd", "train_0_cc", "other_1_bb", "train_1_aa"]
    assert names(recorded, "runs", "train_") == ["train_0_cc", "train_1_aa"]
    assert names(recorded, "runs", "nothing") == []
    recorded.add("sweep_1_aa")
    for number in range(3):
        recorded.add(f"sweep_1_aa_{number}", parent="sweep_1_aa")
    recorded.add("sweep_2_bb")
    trials = ["sweep_1_aa_2", "sweep_1_aa_1", "sweep_1_aa_0"]
    assert names(recorded, "runs", "sweep_") == ["sweep_2_bb", "sweep_1_aa"]
    assert names(recorded, "runs", "sweep_1_a") == ["sweep_1_aa"]
    assert names(recorded, "runs", "sweep_1_aa") == ["sweep_1_aa", *trials]
    assert names(recorded, "runs", "sweep_1_aa_") == trials
    with pytest.raises(UnicodeEncodeError):
        names(recorded, "runs", "\ud800")


def test_experiments_come_once_each_and_safe_for_a_shell(tmp_path: Path, recorded: RecordedRuns) -> None:
    folder = tmp_path / ".himl"
    assert completion_names(folder, "runs", "") == []
    folder.mkdir()
    assert completion_names(folder, "runs", "") == []
    (folder / "workspace.db").write_bytes(b"this is no database" * 1000)
    assert completion_names(folder, "runs", "") == []
    assert sorted(path.name for path in folder.iterdir()) == ["workspace.db"]
    (folder / "workspace.db").write_bytes(b"")
    assert completion_names(folder, "experiments", "") == []
    for number, experiment in enumerate(["seg", "val/fine-1.0+x", "seg", "dig", "digits", *UNSAFE]):
        recorded.add(f"run_{number}_aa", experiment=experiment)
    assert names(recorded, "experiments", "") == ["dig", "digits", "seg", "val/fine-1.0+x"]
    assert names(recorded, "experiments", "digi") == ["digits"]
    assert names(recorded, "experiments", "z") == names(recorded, "experiments", "$") == []


def test_no_query_reads_or_sorts_all_runs(recorded: RecordedRuns) -> None:
    recorded.add_many(100_000)
    assert [int(name.rpartition("_")[2], 16) for name in names(recorded, "runs", "many_")] == list(
        range(99_999, 99_999 - MOST, -1)
    )
    assert [len(names(recorded, "runs", prefix)) for prefix in ("", "nothing", "many_1772366400_00000000")] == [
        MOST,
        0,
        1,
    ]
    assert names(recorded, "experiments", "m") == ["many"]
    for query, bound in ((FEW, ["1"] * 3), (NEWEST, {"prefix": "1", "is_top": True}), (EXPERIMENTS, ["1"])):
        with closing(sqlite3.connect(recorded.folder / ".himl" / "workspace.db")) as connection:
            steps = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {query}", bound)]
        assert any("USING" in step and "INDEX" in step for step in steps)
        assert not [step for step in steps if "B-TREE" in step or ("runs" in step and "INDEX" not in step)]


def test_names_are_read_beside_a_writer_and_without_a_trace(
    tmp_path: Path, recorded: RecordedRuns, read_only: Callable[[Path], Path]
) -> None:
    RecordedRuns(tmp_path).add("train_1_aa")
    # Close the record, and remove its journal files.
    gc.collect()
    before = sorted(path.name for path in (tmp_path / ".himl").iterdir())
    assert "workspace.db-wal" not in before
    assert completion_names(tmp_path / ".himl", "runs", "") == ["train_1_aa"]
    assert sorted(path.name for path in (tmp_path / ".himl").iterdir()) == before
    recorded.add("train_1_aa")
    writer = sqlite3.connect(recorded.folder / ".himl" / "workspace.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET status = 'Failed'")
    assert names(recorded, "runs", "") == ["train_1_aa"]
    writer.close()
    assert completion_names(read_only(tmp_path / ".himl"), "runs", "") == ["train_1_aa"]


def complete(himl: Himl, *arguments: str, cwd: Path | None = None) -> list[str]:
    outcome = himl("--complete", *arguments, cwd=cwd)
    assert (outcome.code, outcome.stderr) == (0, "")
    return outcome.stdout.splitlines()


def test_completion_never_fails_and_makes_nothing(himl: Himl, project: Path) -> None:
    for arguments in NONSENSE:
        assert set(complete(himl, *arguments)) <= {"latest"}
        assert not list(project.iterdir())
    # On Windows, file names are not bytes.
    if sys.platform != "win32":
        RecordedRuns(project).add("train_1_aa")
        assert complete(himl, "runs=\udcff") == []


@pytest.mark.usefixtures("unmeasured")
@posix
@pytest.mark.usefixtures("trained")
def test_runs_and_experiments_of_the_nearest_workspace(started_himl: Himl, project: Path) -> None:
    (project / "deep" / "er").mkdir(parents=True)
    assert complete(started_himl, "runs=") == ["digits_3_cc", "train_2_bb", "train_1_aa", "latest"]
    assert complete(started_himl, "runs=tr", "himl", "runs", "show", "tr", cwd=project / "deep" / "er") == [
        "train_2_bb",
        "train_1_aa",
    ]
    assert complete(started_himl, "experiments=", "himl", "runs", "list", "--experiment", "") == ["digits", "train"]
    for how in (">&-", "| true"):
        line = f'"{started_himl.program}" --complete runs= {how}; echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(["bash", "-c", line], cwd=project, capture_output=True, text=True, timeout=100)
        assert (done.stdout, done.stderr) == ("0\n", ""), how
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "runs="], cwd=project, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.splitlines()[-1] == "latest"
    assert HEAVY & set(json.loads(done.stderr)) == set()


def test_other_machines_of_the_settings(himl: Himl, project: Path) -> None:
    (project / "himl.toml").write_text('[remote.gpubox]\n[remote."a b"]\n[slurm.gpu]\npartition = "long"\n')
    assert complete(himl, "clusters=") == ["ssh:gpubox", "slurm:gpu"]
    assert complete(himl, "clusters=sl", "himl", "submit", "--cluster", "sl") == ["slurm:gpu"]
    assert complete(himl, "machines=", "himl", "runs", "list", "-w", "") == ["ssh:gpubox"]


def test_line_tells_the_workspace_and_what_is_not_told_again(
    himl: Himl, tmp_path: Path, trained: RecordedRuns, project: Path, azure_environment: StagedWorkspace
) -> None:
    assert complete(himl, "runs=", "himl", "runs", "show", "train_1_aa", "latest", "") == ["digits_3_cc", "train_2_bb"]
    assert complete(himl, "runs=tr", "himl", "download", "--run=digits_3_cc,train_2_bb,tr") == ["train_1_aa"]
    assert complete(himl, "runs=train_2_bb", "himl", "download", "train_2_bb") == ["train_2_bb"]
    RecordedRuns(tmp_path / "the other").add("else_1_ee")
    for words in (["-w", "{}"], ["-w{}"], ["--workspace", "{}"], ["--workspace={}"], ["-w", "{}/.himl"]):
        line = ["himl", "runs", "show", *(word.format(tmp_path / "the other") for word in words), "el"]
        assert complete(himl, "runs=el", *line) == ["else_1_ee"], words
    azure = (
        ["--config_file", "x/config.json"],
        ["--config-file=c.json"],
        ["--config_path", "c.json"],
        ["-w", "config.json"],
        ["--workspace", "~/c.json"],
    )
    for words in azure:
        assert complete(himl, "runs=tr", "himl", "runs", "show", *words, "tr") == [], words
    assert complete(himl, "runs=tr", "himl", "submit", "train.py", "--", "--config_file", "c.json", "tr") == [
        "train_2_bb",
        "train_1_aa",
    ]
    assert set(AZURE_OPTIONS) == {
        "config_file",
        *(old for old, today in HIML_OLD_NAMES.items() if today == "config_file"),
    }
    assert trained.folder == project
    azure_environment.write_config(project)
    azure_environment.stage.log.clear()
    assert complete(himl, "runs=tr", "himl", "runs", "show", "tr") == ["train_2_bb", "train_1_aa"]
    assert complete(himl, "experiments=") == ["digits", "train"]
    assert not azure_environment.requests()


def record(folder: Path, *runs: str) -> RecordedRuns:
    folder.mkdir(exist_ok=True)
    recorded = RecordedRuns(folder)
    for name in runs:
        recorded.add(name, experiment=name.partition("_")[0])
    return recorded


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("world")
    recorded = record(top / "project", *sorted(RUNS))
    for name in sorted(TRIALS):
        recorded.add(name, parent="sweep_3_cc", experiment="sweep")
    record(top / "other", "else_1_ee")
    record(top / "the other", "else_2_ff")
    for name in ("train.py", "train.log", "environment.yml", "notes.txt", "lab.json"):
        (top / "project" / name).touch()
    (top / "project" / "things").mkdir()
    return top / "project"


@pytest.fixture(params=FILES)
def shell(
    request: pytest.FixtureRequest, world: Path, tmp_path: Path, require_program: Callable[[str], str]
) -> Iterator[TypedShell | Fish]:
    program = require_program(request.param)
    running = started(request.param, program, SCRIPTS / FILES[request.param], cwd=world, folder=tmp_path)
    yield running
    running.close()


@posix
def test_tab_offers_what_may_stand_there(shell: TypedShell | Fish, world: Path) -> None:
    offered = dict(zip(OFFERS, map(values, shell.offers(list(OFFERS))), strict=True))
    assert offered == OFFERS
    completed, choices, runs, after_doctor = shell.offers(
        # himl accepts hyphens in options.
        ["himl submit --build-source-i", "himl submit --record-in l", "himl runs show --run t", "himl doctor "]
    )
    assert {name.replace("-", "_") for name in completed} == {"__build_source_id"}
    assert values(choices) == {"local"}
    assert runs == ["train_2_bb", "train_1_aa"]
    assert {"--workspace", "--json", "--verbose"} <= set(after_doctor)
    assert all(name.startswith("-") for name in after_doctor)
    traps = [*TRAPS, "(touch evil)"] if isinstance(shell, Fish) else [*TRAPS, "$(touch evil)"]
    places = ("himl runs show --workspace={} tr", "himl runs show {}", "himl submit {}")
    # The shell does not execute any part of the line.
    *_, last = shell.offers([*(place.format(trap) for trap in traps for place in places), "himl runs sh"])
    assert values(last) == {"show"}
    assert not (world / "evil").exists()
