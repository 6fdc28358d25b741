"""What a person sees of every command in narrow, usual and wide terminals, with colours and without."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer.main
from rich.cells import cell_len
from rich.text import Text

from docs.tools.terminal import settled
from himl_cli.app import app
from himl_cli.commands._shape import app_shape
from tests.forked_himl import PROGRAM
from tests.running import Himl
from tests.servers.azureml.seeding import StagedWorkspace
from tests.terminal import Terminal
from tests.terminal_views import RUN, VIEWS, View, make_world

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")

COMMANDS = [each.path[1:] for each in app_shape(typer.main.get_command(app)).walk()]
LEAVES = [" ".join(path) for path in COMMANDS if not any(other[: len(path)] == path and other != path for other in COMMANDS)]
AZURE_VIEWS = {
    "runs": View(["runs", "list"], RUN),
    "a run": View(["runs", "show", RUN], "Studio", is_folded=False),
    "its metrics": View(["runs", "aggregate", "--run", RUN], "0.12346"),
    "files": View(["download", RUN, "--list"], "last.ckpt"),
    "checks": View(["doctor"], "sign-in"),
    "a workspace": View(["workspace", "show"], "Subscription ID", is_folded=False),
    "a link": View(["checkpoint", "url", RUN], "https://", is_folded=False),
}

PLAIN = {"0", "1", "2"}
READABLE = PLAIN | {"31", "32", "33", "36"}
"""Bold and dim, and red, green, yellow and cyan as the user's theme has them: whoever chose a background chose those to be read on it."""
STYLE = re.compile(r"\x1b\[([0-9;:]*)m")
SENTENCE = re.compile(r"(error|hint|warning): |\S.*[.?]$|\S.*\bhiml \w+ ")
"""What is said in words is not folded, since it may hold a command or a path to be copied: the terminal goes on with it in its next line."""


@dataclass(frozen=True)
class Seat:
    """A terminal, and what its user wants of it."""

    columns: int
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def styles(self) -> set[str]:
        """The codes that may be used while bars are drawn."""
        return READABLE if not self.env else PLAIN if "NO_COLOR" in self.env else set()


NARROW = "60"
SEATS = {NARROW: Seat(60), "80 without colour": Seat(80, {"NO_COLOR": "1"}), "200 and dumb": Seat(200, {"TERM": "dumb"})}


@dataclass(frozen=True)
class Seen:
    """What a command showed: its exit code, the screen with all codes, and the lines that stay on it."""

    code: int
    screen: str
    lines: Sequence[str]

    @property
    def plain(self) -> Sequence[str]:
        return [Text.from_ansi(line).plain for line in self.lines]


def seen(arguments: Sequence[str], folder: Path, seat: Seat) -> Seen:
    terminal = Terminal([str(PROGRAM), *arguments], cwd=folder, columns=seat.columns, env=seat.env)
    code = terminal.finish(60)
    return Seen(code, terminal.screen, settled(terminal.screen))


def assert_fits(shown: Seen, seat: Seat, *, is_folded: bool = True) -> None:
    """No line but a sentence is wider than the terminal, and no code is used that it does not want; where *is_folded* is False a line may be long."""
    if is_folded:
        assert [line for line in shown.plain if cell_len(line.rstrip()) > seat.columns and not SENTENCE.match(line)] == []
    used = {code or "0" for codes in STYLE.findall(shown.screen) for code in re.split("[;:]", codes)}
    assert used <= seat.styles
    assert not seat.env or "\x1b" not in "".join(shown.lines)
    assert seat.env.get("TERM") != "dumb" or "\x1b" not in shown.screen


def check(view: View, folder: Path, seat: Seat) -> None:
    shown = seen(view.arguments, folder / view.folder, seat)
    assert shown.code == view.code, shown.screen
    assert any(view.shows.lower() in line.lower() for line in shown.plain), shown.screen
    assert_fits(shown, seat, is_folded=view.is_folded)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose commands are shown; what they leave changes nothing for the others."""
    folder = tmp_path_factory.mktemp("lab")
    make_world(folder)
    return folder


@pytest.mark.parametrize(("seat", "name"), [(seat, name) for seat in SEATS for name, view in VIEWS.items() if seat == NARROW or view.is_laid_out])
def test_what_a_command_shows_fits_the_terminal(lab: Path, seat: str, name: str) -> None:
    check(VIEWS[name], lab, SEATS[seat])


@pytest.mark.parametrize("name", AZURE_VIEWS)
def test_what_a_command_shows_of_azure_fits_a_narrow_terminal(azure_environment: StagedWorkspace, project: Path, name: str) -> None:
    azure_environment.write_config(project)
    run = azure_environment.add_run(RUN, "train", display_name="A rather long display name of a first try", tags={"team": "blue"})
    azure_environment.add_metric(run, "val/accuracy_of_the_macro_average_over_all_classes", [0.5, 0.123456789], steps=[1, 2])
    azure_environment.put_artifacts(run, {"outputs/checkpoints/last.ckpt": b"last"})
    check(AZURE_VIEWS[name], project, SEATS[NARROW])


def test_every_command_has_a_view() -> None:
    def has(view: View, command: str) -> bool:
        return view.arguments[: len(command.split())] == command.split()

    views = [*VIEWS.values(), *AZURE_VIEWS.values()]
    assert [command for command in LEAVES if not any(has(view, command) for view in views)] == []


@pytest.mark.parametrize("seat", SEATS.values(), ids=SEATS)
def test_help_on_a_terminal_is_that_of_a_pipe_of_its_width(himl: Himl, seat: Seat) -> None:
    shown = seen(["submit", "--help"], himl.folder, seat)
    assert shown.plain == himl.ok("submit", "--help", env={"COLUMNS": str(seat.columns)}).stdout.splitlines()
    assert_fits(shown, seat, is_folded=False)


BARS = """
import time
from himl_cli.core.events import Counted, Counting, Finished, Moved, Planned
from himl_cli.render.output import Output
from himl_cli.render.progress import observing
with observing(Output()) as notify:
    notify(Counting("slides", 40))
    notify(Planned(2, 2_000_000))
    for _ in range(40):
        notify(Counted())
        notify(Moved("a", 50_000))
        time.sleep(0.02)
    notify(Finished("a"))
    time.sleep(0.2)
"""


@pytest.mark.parametrize("seat", SEATS.values(), ids=SEATS)
def test_bars_are_seen_on_a_light_and_on_a_dark_terminal(tmp_path: Path, seat: Seat) -> None:
    terminal = Terminal([sys.executable, "-c", BARS], cwd=tmp_path, columns=seat.columns, env=seat.env)
    assert terminal.finish() == 0
    assert ("40/40 slides" in terminal.screen) is (seat.env.get("TERM") != "dumb")
    assert {code or "0" for codes in STYLE.findall(terminal.screen) for code in re.split("[;:]", codes)} <= seat.styles
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.screen).replace("\r", "\n").splitlines()
    assert all(re.match(r"\d+/40 slides .* ETA \d:\d\d|\d files? .*B/s( +\d\d:\d\d)?|$", line) for line in drawn), "a bar is one line"
    assert all(len(line.rstrip()) <= seat.columns for line in drawn)
