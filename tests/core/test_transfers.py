"""What a transfer that did not go as asked is said to be: each cause once, and the next move."""

from __future__ import annotations

import pytest

from himl_cli.core.blobs import Failure, Refused, TransferResult
from himl_cli.core.errors import HimlError, NotAllowed, ServiceFailed, TransferIncomplete


def problem(result: TransferResult, *, is_listed: bool = False) -> HimlError:
    error = result.problem(is_listed=is_listed)
    assert error is not None
    return error


def test_a_common_cause_is_said_once_with_its_own_hint() -> None:
    failed = tuple(Failure(f"up/{number}", "The signature may only read.", "not_allowed", "Ask for the right to write.") for number in range(300))
    error = problem(TransferResult(failed=failed))
    assert isinstance(error, NotAllowed)
    assert str(error) == "Failed: 'up/0', 'up/1', 'up/2' and 297 more: The signature may only read."
    assert error.hint == "Ask for the right to write."


def test_causes_that_name_their_file_are_alike() -> None:
    failed = tuple(Failure(name, f"'{name}' did not arrive.", "service_failed") for name in "ab")
    result = TransferResult(failed=failed)
    assert result.is_told_by_problem
    assert str(problem(result)) == "Failed: 'a', 'b': it did not arrive."


def test_one_file_is_named_once() -> None:
    assert str(problem(TransferResult(failed=(Failure("a", "'a' did not arrive.", "service_failed"),)))) == "'a' did not arrive."
    assert str(problem(TransferResult(failed=(Failure("a", "No connection.", "service_failed"),)))) == "Failed: 'a'. No connection."


def test_several_causes_show_first_or_count_if_already_listed() -> None:
    result = TransferResult(failed=(Failure("a", "No connection.", "service_failed", "Online?"), Failure("b", "Archived.", "service_failed", "Thaw it.")))
    assert not result.is_told_by_problem
    assert str(problem(result)) == "Failed, for 2 reasons: 'a', 'b'. First: No connection."
    assert str(problem(result, is_listed=True)) == "2 files failed."
    assert problem(result).hint == "Run the command again: complete files are skipped, partial ones resumed."


def test_retry_hint_adds_that_complete_files_are_skipped() -> None:
    error = problem(TransferResult(failed=(Failure("a", "Too busy.", "service_failed", "Try again later."),)))
    assert isinstance(error, ServiceFailed)
    assert error.hint == "Try again later. Complete files are skipped then, partial ones resumed."


def test_each_file_that_was_left_out_has_its_own_reason() -> None:
    result = TransferResult(refused=(Refused("../a", "it climbs"), Refused("b//c", "it has an empty name"), Refused("d", "it climbs")))
    assert isinstance(problem(result), TransferIncomplete)
    assert str(problem(result)) == "Left out: '../a' (it climbs), 'b//c' (it has an empty name), 'd' (it climbs)."
    same = TransferResult(refused=(Refused("../a", "it climbs"), Refused("../b", "it climbs")))
    assert str(problem(same)) == "Left out: '../a', '../b' (it climbs)."


@pytest.mark.parametrize(("names", "hint"), [(("a",), "Add --overwrite to replace it."), (("a", "b"), "Add --overwrite to replace them.")])
def test_what_differs_is_named_in_its_number(names: tuple[str, ...], hint: str) -> None:
    assert problem(TransferResult(differing=names)).hint == hint


def test_error_names_all_files_only_if_few_and_of_one_kind() -> None:
    assert TransferResult(differing=("a", "b", "c")).is_told_by_problem
    assert not TransferResult(differing=("a", "b", "c", "d")).is_told_by_problem
    assert not TransferResult(differing=("a",), refused=(Refused("b", "why"),)).is_told_by_problem
