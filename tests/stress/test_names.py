"""Judging commands that met hostile names, and drawing the names."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stress.faults.judge import Ended
from stress.names.bomb_cases import bomb_problems
from stress.names.bombs import BOMBS, Bomb
from stress.names.bounded import Bounded
from stress.names.cases import name_cases
from stress.names.hostile import Blob, Storage
from stress.names.judge import file_problems, is_named, judge, places_of, raw_signs
from stress.names.kinds import KINDS
from stress.names.tree import changes, tree_of
from stress.records import Outcome
from tests.support.running import write_files

GOOD, EVIL = Blob("plain/one.bin", b"1"), Blob("../escaped", b"2")


def problems(folder: Path, said: str = "left out: '../escaped'") -> list[str]:
    places = places_of(tree_of(folder), "out")
    return file_problems([GOOD, EVIL], places, said, refused={EVIL.name}, must={GOOD.name})


def test_what_came_is_exact_and_what_did_not_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, {"out/plain/one.bin": b"1"})
    assert problems(tmp_path) == []
    assert problems(tmp_path, "nothing") == ["'../escaped' is neither there nor named"]
    others = [GOOD, EVIL, Blob("../other", b"2")]
    places = places_of(tree_of(tmp_path), "out")
    wrong = [file_problems(others, places, "nothing", refused=set(), must=set(), counted=number) for number in (2, 1)]
    assert wrong == [[], ["'../other' is neither there nor named"]]  # of a long list, the last ones are told by their number


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "'plain/one.bin' is lacking"),
        ({"out/plain/one.bin": b"other"}, "'plain/one.bin' is lacking"),
        ({"out/plain/one.bin": b"1", "out/escaped": b"2"}, "'escaped' should not be there, or not so (file)"),
        ({"out/plain/one.bin": b"1", "out/sub/.himl-transfer.db": b""}, "'sub/.himl-transfer.db' should not be there, or not so (file)"),
    ],
)
def test_what_lacks_or_is_too_much_is_a_problem(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    write_files(tmp_path, {"out/x": b"", **files})
    (tmp_path / "out" / "x").unlink()
    assert told in problems(tmp_path)


def test_changes_are_seen_without_following_links(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "b": b"1"})
    before = tree_of(tmp_path)
    write_files(tmp_path, {"a": b"2", "c/d": b"1"})
    (tmp_path / "b").unlink()
    (tmp_path / "link").symlink_to("nowhere")
    assert changes(before, tree_of(tmp_path)) == ["'b' is gone", "'c' is new (folder)", "'c/d' is new (file)", "'link' is new (link)", "'a' was changed"]


def test_names_are_known_in_lines_as_they_may_stand_there() -> None:
    assert is_named("a\x1b[2J\nb", "left out: a [2J b: it has control characters in it")
    assert is_named("x" * 300, f"left out: {'x' * 100}...")
    assert not is_named("../escaped", "left out: escaped")
    assert raw_signs("a\n\x9b\u202e\té") == ["'\\t'", "'\\u202e'", "'\\x9b'"]


@pytest.mark.parametrize(
    ("ended", "problems", "outcome"),
    [
        (Ended(0, "", ""), [], Outcome.survived),
        (Ended(1, "", "error: Left out: 'x'."), [], Outcome.reported),
        (Ended(1, "", "error: Left out: 'x'."), ["outside of the target 'y' is new"], Outcome.lost),
        (Ended(3, "", "error: none"), [], Outcome.lost),
        (Ended(1, "", " "), [], Outcome.lost),
        (Ended(1, "", "error: This is a bug in himl: x"), [], Outcome.lost),
        (None, [], Outcome.lost),
    ],
)
def test_the_outcome_of_a_call(ended: Ended | None, problems: list[str], outcome: Outcome) -> None:
    assert judge(ended, {0, 1}, problems, is_all_there=True).outcome is outcome


@pytest.mark.parametrize(
    ("done", "is_fine"),
    [
        (Bounded(Ended(2, "", "error: too deep\nhint: do not\n"), 0.3, 90, 1), True),
        (Bounded(Ended(2, "", "error: too deep\n"), 5.1, 90, 6), False),
        (Bounded(Ended(2, "", "error: too deep\n"), 0.3, 600, 1), False),
        (Bounded(Ended(2, "", "error: too deep\nTraceback\n"), 0.3, 90, 1), False),
        (Bounded(Ended(2, "half", "error: too deep\n"), 0.3, 90, 1), False),
        (Bounded(Ended(2, "", f"error: {'x' * 5000}\n"), 0.3, 90, 1), False),
    ],
)
def test_a_bomb_is_refused_in_a_line_and_within_bounds(done: Bounded, is_fine: bool) -> None:
    assert (bomb_problems(Bomb((), frozenset({2})), done) == []) is is_fine


def test_every_draw_of_a_seed_is_the_same_again() -> None:
    for kind in KINDS:
        assert [*kind.names(random.Random(f"8/{kind.name}"))] == [*kind.names(random.Random(f"8/{kind.name}"))]
    for make in BOMBS.values():
        assert make(random.Random("8")) == make(random.Random("8"))


def test_a_list_holds_what_xml_cannot_and_ids_are_no_two_alike() -> None:
    assert b'<Name Encoded="true">a%00%1Bb</Name>' in Storage([Blob("a\0\x1bb", b"")]).listing("")
    assert b"<Name>a&lt;b</Name>" in Storage([Blob("a<b", b""), Blob("c", b"")]).listing("a")
    ids = [case.id for case in name_cases()]
    assert len(ids) == len(set(ids)) > 400
