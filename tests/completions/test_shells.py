"""What Tab offers in the real shells: the same in all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from himl_cli.app import COMMANDS
from himl_cli.core.runs import RunStatus
from tests.completions.shells import SCRIPTS, Fish, TypedShell, started, values
from tests.support.runs import RecordedRuns

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")

FILES = {"bash": "himl.bash", "zsh": "_himl", "fish": "himl.fish"}
RUNS = {"digits_1_aa", "train_1_aa", "train_2_bb", "sweep_3_cc"}
TRIALS = {"sweep_3_cc_0", "sweep_3_cc_1"}
STATUSES = {status.value for status in RunStatus}

OFFERS = {
    "himl ": set(COMMANDS),
    "himl ru": {"runs"},
    "himl runs sh": {"show"},
    "himl nonsense ": set(),
    "himl runs list --num": {"--num_runs"},
    "himl runs list --format ": {"human", "json", "quiet"},
    "himl runs list --format=j": {"json"},
    "himl runs list --json --for": {"--format"},
    "himl runs list --json --js": set(),
    "himl runs list --quiet --q": set(),
    "himl runs list -q --q": set(),
    "himl submit --tag a=b --ta": {"--tag"},
    "himl submit --wai": {"--wait"},
    "himl submit --no_wait --wai": set(),
    "himl runs list --status ": STATUSES,
    "himl runs list --status Completed,Fa": {"Failed"},
    "himl runs list --status=Completed,Fa": {"Failed"},
    "himl runs show ": RUNS | {"latest"},
    "himl runs show tr": {"train_1_aa", "train_2_bb"},
    "himl runs show train_1_aa tr": {"train_2_bb"},
    "himl runs show train_1_aa,tr": {"train_2_bb"},
    "himl runs show sweep_3_cc": {"sweep_3_cc"} | TRIALS,
    "himl runs show --run la": {"latest"},
    "himl runs show --run-ids tr": {"train_1_aa", "train_2_bb"},
    "himl runs show -w ../other ": {"else_1_ee", "latest"},
    "himl runs show --workspace='../the other' ": {"else_2_ff", "latest"},
    "himl runs show --config_file lab.json tr": set(),
    "himl runs list --experiment ": {"digits", "sweep", "train"},
    "himl runs list --experiment_name d": {"digits"},
    "himl submit t": {"train.py", "things"},
    "himl submit --tag team=blue t": {"train.py", "things"},
    "himl submit train.py --cluster ": {"local"},
    "himl submit train.py --cluster=local --sa": {"--sampling"},
    "himl submit train.py --sampling ": {"grid", "random", "bayesian"},
    "himl submit train.py -- t": {"train.py", "things", "train.log"},
    "himl submit train.py -- --cluster t": {"train.py", "things", "train.log"},
    "himl submit -m lab.train --num_nodes 2 --processes_per": {"--processes_per_node"},
    "himl submit train.py --conda_env first.yml,e": {"environment.yml"},
    "himl download --output_dir t": {"things"},
    "himl checkpoint fetch train_": {"train_1_aa", "train_2_bb"},
    "himl checkpoint fetch train.": {"train.py", "train.log"},
    "himl datastore upload train.log t": set(),
    "himl completion ": {"bash", "zsh", "fish", "powershell"},
    "himl montage --layout ": {"fit", "hi-ml"},
}

TRAPS = ["'$(touch evil)'", '"$(touch evil)"', "'(touch evil)'", "'", '"$']


def record(folder: Path, *names: str) -> RecordedRuns:
    """A workspace with a run for each of *names*, of the experiment that it begins with."""
    folder.mkdir(exist_ok=True)
    recorded = RecordedRuns(folder)
    for name in names:
        recorded.add(name, experiment=name.partition("_")[0])
    return recorded


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with files and runs, and two others beside it."""
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
def shell(request: pytest.FixtureRequest, world: Path, tmp_path: Path, require_program: Callable[[str], str]) -> Iterator[TypedShell | Fish]:
    program = require_program(request.param)
    running = started(request.param, program, SCRIPTS / FILES[request.param], cwd=world, folder=tmp_path)
    yield running
    running.close()


def test_tab_offers_what_may_stand_there(shell: TypedShell | Fish) -> None:
    offered = dict(zip(OFFERS, map(values, shell.offers(list(OFFERS))), strict=True))
    assert offered == OFFERS


def test_hyphens_in_options_are_understood(shell: TypedShell | Fish) -> None:
    names, choices = shell.offers(["himl submit --build-source-i", "himl submit --record-in l"])
    assert {name.replace("-", "_") for name in names} == {"__build_source_id"}
    assert values(choices) == {"local"}


def test_the_newest_run_comes_first(shell: TypedShell | Fish) -> None:
    (offered,) = shell.offers(["himl runs show --run t"])
    assert offered == ["train_2_bb", "train_1_aa"]


def test_an_option_is_offered_where_no_argument_may_stand(shell: TypedShell | Fish) -> None:
    (offered,) = shell.offers(["himl doctor "])
    assert {"--workspace", "--json", "--verbose"} <= set(offered)
    assert all(name.startswith("-") for name in offered)


def test_nothing_of_the_line_is_run(shell: TypedShell | Fish, world: Path) -> None:
    traps = [*TRAPS, "(touch evil)"] if isinstance(shell, Fish) else [*TRAPS, "$(touch evil)"]
    places = ("himl runs show --workspace={} tr", "himl runs show {}", "himl submit {}")
    *_, last = shell.offers([*(place.format(trap) for trap in traps for place in places), "himl runs sh"])
    assert values(last) == {"show"}
    assert not (world / "evil").exists()
