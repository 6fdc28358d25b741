"""The output folder, where something happens between any two of its steps: interruptions, errors, other montages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import FrameType

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.processes import ProcessLock, is_held
from himl_cli.services.montage.compose import output_folder
from himl_cli.services.montage.compose.output_folder import LOCK, OutputFolder
from himl_cli.services.montage.disk_errors import ASIDE
from tests.steps import at_each_step

OLD = {"montage.png": "old", "montage.jpg": "old", "montage_files/0/0_0.jpg": "old", "other.txt": "mine"}
NEW = {"montage.png": "new", "montage_files/1": "new", "montage.csv": "new", "more/1": "new", "other.txt": "mine"}
WAY = "more"
"""No folder can replace a file: put in the place of this one, it stops what puts all in place at its last step."""
MOVES = (os.rename, os.replace, os.mkdir)


def tree(folder: Path) -> dict[str, str]:
    """The files below *folder* that anybody sees, by their names, but for what was put in the way."""
    names = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for path, name in names.items() if name != WAY and not name.startswith(ASIDE)}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def published(out: Path, fault: BaseException, number: int, where: Callable[[str, object], bool], *, in_the_way: bool) -> BaseException | None:
    """Replace OLD by NEW, where *fault* is met at step *number* of those that *where* picks.

    Gives what came of it, None where there are fewer steps.
    """
    fill(out, OLD)
    seen = 0

    def react(frame: FrameType, event: str, called: object) -> None:
        nonlocal seen
        if frame.f_code.co_filename == output_folder.__file__ and where(event, called):
            seen += 1
            if seen == number:
                raise fault

    try:
        with OutputFolder(out) as folder:
            fill(folder.new, NEW)
            if in_the_way:
                (out / WAY).touch()
            with at_each_step(react):
                folder.publish(["montage.png", "montage_files", "montage.csv", "more"], ["montage.jpg"])
    except (KeyboardInterrupt, DiskFailed) as err:
        return err if seen >= number else None
    return None


def went_on(out: Path) -> dict[str, str]:
    """What is there after the next call."""
    if (out / WAY).is_file():
        (out / WAY).unlink()
    with OutputFolder(out):
        pass
    assert not (out / ASIDE).exists()
    return tree(out)


@pytest.mark.parametrize("in_the_way", [False, True])
def test_whenever_it_is_interrupted_all_files_are_of_one_montage(*, in_the_way: bool, tmp_path: Path) -> None:
    """Ctrl-C before and after each step of what puts files in place, and of what takes them back."""
    seen = []
    for number in range(1, 1000):
        out = tmp_path / str(number)
        if published(out, KeyboardInterrupt(), number, lambda event, called: True, in_the_way=in_the_way) is None:
            break
        at_once, is_kept = tree(out), (out / ASIDE).exists()
        assert is_kept or at_once in (OLD, NEW), number
        later = went_on(out)
        assert later in (OLD, NEW), number
        assert is_kept or later == at_once, number
        seen.append((is_kept, later == NEW))
    assert len(seen) > 40
    assert {(False, False), (True, True) if in_the_way else (False, True)} <= set(seen)


def test_where_old_files_cannot_have_their_places_again_they_are_kept_and_it_is_said(tmp_path: Path) -> None:
    """One step more fails, after a file could not take its place: a virus scanner holds what was just moved."""
    kept = 0
    for number in range(1, 100):
        out = tmp_path / str(number)
        fault = PermissionError(13, "it is in use")
        err = published(out, fault, number, lambda event, called: event == "c_call" and called in MOVES, in_the_way=True)
        if err is None:
            break
        assert isinstance(err, DiskFailed)
        if (out / ASIDE).exists():
            kept += 1
            assert "Cannot put the montage into" in str(err)
            assert "nor could all be made as it was before" in str(err)
            assert "brings it to its end" in str(err.hint)
            assert went_on(out) == NEW
        else:
            assert "nor could" not in str(err)
            assert tree(out) == went_on(out) == OLD
    assert kept >= 3


def test_what_begins_while_another_one_ends_keeps_its_lock(tmp_path: Path) -> None:
    """It has the lock, and nothing else, once the other one gave it back, and before that one is done with the folder."""
    out = tmp_path / "out"
    begun, is_locked, may_go_on = OutputFolder(out), Event(), Event()

    def pause(frame: FrameType, event: str, called: object) -> None:
        if event == "return" and frame.f_code is ProcessLock.take.__code__:
            is_locked.set()
            may_go_on.wait(60)

    def begin() -> None:
        with at_each_step(pause):
            begun.__enter__()

    def react(frame: FrameType, event: str, called: object) -> None:
        if event == "return" and frame.f_code is ProcessLock.release.__code__:
            thread.start()
            assert is_locked.wait(60)

    thread = Thread(target=begin)
    with at_each_step(react), OutputFolder(out):
        pass
    may_go_on.set()
    thread.join(60)
    assert begun.new.exists()
    assert is_held(out / ASIDE / LOCK)
    begun.__exit__(None, None, None)
    assert not (out / ASIDE).exists()


@pytest.mark.skipif(os.name == "nt", reason="a file that is open cannot be removed there")
def test_who_gets_the_lock_of_a_file_that_is_gone_has_none(tmp_path: Path) -> None:
    """It had opened the lock of the first one when that one ended; the second one has the lock that is there."""
    out = tmp_path / "out"
    first, second = OutputFolder(out), OutputFolder(out)
    first.__enter__()
    done: list[str] = []

    def react(frame: FrameType, event: str, called: object) -> None:
        if event == "c_return" and called is os.open and not done:
            first.__exit__(None, None, None)
            second.__enter__()
            done.append("second began")
        elif event == "c_call" and getattr(called, "__name__", "") == "sleep" and len(done) == 1:
            second.__exit__(None, None, None)
            done.append("second ended")

    with at_each_step(react), OutputFolder(out):
        assert done == ["second began", "second ended"]
    assert not (out / ASIDE).exists()
