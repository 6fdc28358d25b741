"""What the judge of faults lets pass, and what it sees."""

from __future__ import annotations

import pytest

from stress.faults.judge import Ended, differences, judge, judge_again
from stress.records import Outcome

WANTED = {"a.bin": b"0123456789" * 1000, "sub/b.bin": b"", "c.bin": b"cc"}
DONE, REFUSED = Ended(0, "Downloaded 3 files.\n", ""), Ended(5, "", "himl: The service did not answer.\n")
CODES = frozenset({0, 5})
BUG = "error: This is a bug in himl: KeyError: 'x'"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: no\n'


def test_the_exact_bytes_are_no_difference() -> None:
    assert differences(WANTED, dict(WANTED), is_done=True) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.bin", WANTED["a.bin"][:-1], "'a.bin' has 9,999 bytes of 10,000, other ones from byte 9,999 on"),
        ("a.bin", WANTED["a.bin"][:500] + b"?" + WANTED["a.bin"][501:], "'a.bin' has 10,000 bytes of 10,000, other ones from byte 500 on"),
        ("a.bin", WANTED["a.bin"] + b"0", "'a.bin' has 10,001 bytes of 10,000, other ones from byte 10,000 on"),
        ("a.bin", b"", "'a.bin' has 0 bytes of 10,000, other ones from byte 0 on"),
        ("sub/b.bin", b"\0", "'sub/b.bin' has 1 bytes of 0, other ones from byte 0 on"),
        ("a.bin.tmp", b"", "'a.bin.tmp' should not be there"),
    ],
)
@pytest.mark.parametrize("is_done", [True, False])
def test_wrong_bytes_are_found_whether_or_not_call_failed(name: str, content: bytes, said: str, is_done: bool) -> None:
    assert differences(WANTED, {**WANTED, name: content}, is_done=is_done) == [said]


def test_a_name_may_lack_only_where_the_call_failed() -> None:
    found = {"c.bin": b"cc"}
    assert differences(WANTED, found, is_done=False) == []
    assert differences(WANTED, found, is_done=True) == ["'a.bin' is lacking", "'sub/b.bin' is lacking"]


def test_what_grows_may_end_early_only_where_the_call_failed() -> None:
    begun = {"a.bin": WANTED["a.bin"][:10]}
    assert differences(WANTED, begun, is_done=False, grows=True) == []
    assert len(differences(WANTED, begun, is_done=True, grows=True)) == 3
    assert len(differences(WANTED, {"a.bin": b"012345678x"}, is_done=False, grows=True)) == 1
    assert len(differences(WANTED, begun, is_done=False)) == 1


def test_completed_call_counts_as_survived_failed_as_reported() -> None:
    assert judge(DONE, CODES, []).outcome is Outcome.survived
    assert judge(REFUSED, CODES, []).outcome is Outcome.reported
    assert judge(Ended(5, "2 of 3 files", "himl: failed"), CODES, [], prints_on_failure=True).outcome is Outcome.reported


@pytest.mark.parametrize(
    ("ended", "problems", "said"),
    [
        (None, [], "hangs"),
        (Ended(1, "", TRACEBACK), [], "a failure that himl does not know: ValueError: no"),
        (Ended(0, "", TRACEBACK), [], "a failure that himl does not know: ValueError: no"),
        (Ended(5, "", BUG), [], f"a failure that himl does not know: {BUG}"),
        (Ended(1, "", "himl: failed"), [], "exit code 1, documented: 0, 5: himl: failed"),
        (Ended(-9, "", ""), [], "exit code -9, documented: 0, 5: (nothing on stderr)"),
        (DONE, ["'a.bin' is lacking"], "exit code 0, but 'a.bin' is lacking"),
        (REFUSED, ["'a.bin' has 1 byte"], "exit code 5, but 'a.bin' has 1 byte"),
        (Ended(5, "outputs/x", "himl: failed"), [], "exit code 5, and yet on stdout: 'outputs/x'"),
        (Ended(5, "", " \n"), [], "exit code 5 without a word"),
    ],
)
def test_all_else_is_lost(ended: Ended | None, problems: list[str], said: str) -> None:
    verdict = judge(ended, CODES, problems)
    assert (verdict.outcome, verdict.why) == (Outcome.lost, said)


@pytest.mark.parametrize(
    ("ended", "problems", "said"),
    [
        (None, [], "the next call hangs"),
        (REFUSED, [], "the next call: exit code 5: himl: The service did not answer."),
        (DONE, ["'a.bin' is lacking"], "the next call: 'a.bin' is lacking"),
    ],
)
def test_what_the_next_call_cannot_put_right_is_lost(ended: Ended | None, problems: list[str], said: str) -> None:
    verdict = judge_again(judge(REFUSED, CODES, []), ended, problems)
    assert (verdict.outcome, verdict.why) == (Outcome.lost, said)


def test_a_next_call_that_does_all_leaves_the_verdict_as_it_was() -> None:
    for first in (judge(DONE, CODES, []), judge(REFUSED, CODES, [])):
        assert judge_again(first, DONE, []) == first
