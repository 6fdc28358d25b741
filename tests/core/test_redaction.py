"""Texts in output and errors: no secrets, the part of an address that distinguishes files, and the error of a failed
transfer.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import himl_cli
from himl_cli.core.blobs import FileFailure, Refused, TransferResult
from himl_cli.core.errors import HimlError, IntegrityFailed, NotAllowed, NotFound, ServiceFailed, TransferIncomplete
from himl_cli.core.redaction import (
    MASK,
    identity,
    is_address,
    is_botched_address,
    mask_arguments,
    mask_document,
    mask_line,
    redact,
)
from tests.support.hostile_texts import LONG, SECONDS, within
from tests.support.secret_cases import CHOSEN, FORMS, GENERATED, ORDINARY, TEXTS, made

SECRETS = """
https://x.blob.core.windows.net/c/f?sv=2020&sig=HIDDEN%2Fme%3D&se=1
https://x.s3.amazonaws.com/f?X-Amz-Date=1&X-Amz-Signature=HIDDEN
DefaultEndpointsProtocol=https;AccountName=a;AccountKey=HIDDEN==;EndpointSuffix=x
SharedAccessSignature=HIDDEN;x=1
Authorization: Bearer HIDDEN.abc
authorization: basic HIDDEN
https://user:HIDDEN@example.org/simple
service_principal_password = 'HIDDEN'
{"access_token": "HIDDEN"}
token eyJhbGciOiJHIDDEN.eyJzdWIiOiJHIDDEN.c2lnHIDDEN
--api-key=HIDDEN
MLFLOW_TRACKING_TOKEN=HIDDEN
AZURE_STORAGE_KEY=HIDDEN
for ghp_HIDDEN0123456789abcdefgh
application_key: 'HIDDEN'
password=p@HIDDEN
mysql://me:HIDDEN@host/db
run-eyJhbGciOiJHIDDEN.eyJzdWIiOiJHIDDEN.c2lnHIDDEN
a.b-eyJ-eyJhbGciOiJHIDDEN.eyJHIDDEN.HIDDEN
"""
PLAIN = """
No run 'train_1_aa' in local workspace '.himl'.
--num_tokens=5
tokenizer=bert
a=b
https://example.org/x?y=z
key: value
public_key=abc
num_keys=3
C:\\Users\\x
"""


def test_secrets_are_masked_and_ordinary_text_stays() -> None:
    for text in SECRETS.splitlines()[1:]:
        assert "HIDDEN" not in redact(text)
        assert "***" in redact(text)
    for text in PLAIN.splitlines()[1:]:
        assert redact(text) == text
    document = {
        "api_key": "HIDDEN",
        "token_count": "5",
        "inputs": [{"path": "https://x.example/f?sig=HIDDEN"}, "Basic training"],
        "nodes": 2,
    }
    assert mask_document(document) == {
        "api_key": "***",
        "token_count": "5",
        "inputs": [{"path": "https://x.example/f?sig=***"}, "Basic training"],
        "nodes": 2,
    }


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("form", FORMS.splitlines()[1:])
def test_secrets_are_masked_by_their_form_under_any_name(form: str) -> None:
    random = Random(form)
    for text, parts in (made(form, random) for _ in range(20)):
        for shown in (
            redact(text),
            redact(f"error: 'x' {text} is not valid"),
            mask_arguments(["--x", text])[1],
            mask_document({"x": [text]})["x"][0],
        ):
            assert MASK in shown
            assert not [part for part in parts if part in shown]
            assert redact(shown) == shown


@pytest.mark.parametrize(
    ("names", "forms"),
    [
        (CHOSEN, ("hunter2", "HIDDEN", "correct-horse", "{a40}")),
        (GENERATED, ("{x32}", "{a40}", "{u43}", "{l32}", "{b43}=")),
    ],
)
def test_secrets_are_masked_by_their_name(names: str, forms: tuple[str, ...]) -> None:
    for name, form in ((name, form) for name in names.split() for form in forms):
        value, key = made(form, Random(name))[0], name.lstrip("-+")
        given = [[f"{name}={value}"], [name, value] if name.startswith("--") else ["-e", f"{name}={value}"]]
        for shown in (*map(mask_arguments, given), *([mask_line(shlex.join(each))] for each in given)):
            assert MASK in shown[-1], (name, value)
            assert value not in shown[-1]
        assert mask_document({key: value, "n": 1}) == {key: MASK, "n": 1}
        for text in (f"x {name}={value}, y=1", f'{{"{key}": "{value}", "n": 1}}', f"{key}: {value}"):
            assert redact(text) == text.replace(value, MASK)


def test_arguments_of_open_libraries_are_not_masked() -> None:
    for case in filter(None, (each.strip() for each in ORDINARY.split(" | "))):
        name, _, value = case.partition(" ")
        for words in ([name, value], [f"{name}={value}"]) if value else ([case],):
            assert mask_arguments(words) == words
            assert (mask_line(shlex.join(words)), redact(shlex.join(words))) == (shlex.join(words), shlex.join(words))
        key, _, assigned = case.lstrip("-+~").replace(" ", "=", 1).partition("=")
        assert mask_document({key: assigned}) == {key: assigned}
        for text in (f'{{"{key}": "{assigned}"}}', f"{key}: {assigned}"):
            assert redact(text) == text
    for text in TEXTS.splitlines()[1:]:
        assert (redact(text), mask_line(text)) == (text, text)


def texts_of(node: ast.AST) -> Iterator[str]:
    """The texts in the code below *node*, with `value` for what an f-string inserts."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "value" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts_of(child)


@pytest.mark.large("checks the texts of all modules")
def test_texts_of_himl_are_not_masked() -> None:
    for path in sorted(Path(himl_cli.__file__).parent.rglob("*.py")):
        for text in texts_of(ast.parse(path.read_text(encoding="utf-8"))):
            if not text.startswith("Authorization: "):  # a header for a request
                assert redact(text) == text, path
                assert "himl " not in text[:200] or mask_line(text[:200]) == text[:200], path


def test_arguments_are_masked_by_their_names() -> None:
    counts = ["--token_count", "5", "--max_token", "9", "--pad_token_id", "0"]
    for arguments, shown in (
        (["--wandb-key", "HIDDEN", "--lr", "1"], ["--wandb-key", "***", "--lr", "1"]),
        (["--wandbKey=HIDDEN", "monkey=1", "MYPW=HIDDEN"], ["--wandbKey=***", "monkey=1", "MYPW=***"]),
        (["--token", "123456", "--api_token=1234", *counts], ["--token", "***", "--api_token=***", *counts]),
        (["STORAGE_KEY=HIDDEN with spaces", "--password_length=12"], ["STORAGE_KEY=***", "--password_length=12"]),
        (["--password", "'HID DEN'", "--token", '"HIDDEN"'], ["--password", "'***'", "--token", '"***"']),
        (["--api_keys", "HIDDEN", "HIDDEN", "--x", "y"], ["--api_keys", "***", "***", "--x", "y"]),
        (
            ["-e", "MY_PAT=HIDDEN", "-eMY_PAT=HIDDEN", "--env=MY_PAT=HIDDEN"],
            ["-e", "MY_PAT=***", "-eMY_PAT=***", "--env=MY_PAT=***"],
        ),
        (["bash", "-c", "train --api-key HIDDEN && done"], ["bash", "-c", "train --api-key *** && done"]),
        (["--docker_args=-e MY_PAT=HIDDEN --shm-size 4g"], ["--docker_args=-e MY_PAT=*** --shm-size 4g"]),
    ):
        assert mask_arguments(arguments) == shown


def test_a_line_is_masked_and_stays_otherwise() -> None:
    for line, shown in (
        ("-e MY_TOKEN=HIDDEN --password HIDDEN  --gpus all", "-e MY_TOKEN=*** --password ***  --gpus all"),
        ("-e 'MY_PAT=HID DEN' -e \"B=c d\"", "-e 'MY_PAT=***' -e \"B=c d\""),
        ("-e MY_PAT='HID DEN' x", "-e MY_PAT=*** x"),
        ("--a='--password HIDDEN' --b=\"-c 'x --token HIDDEN'\"", "--a='--password ***' --b=\"-c 'x --token ***'\""),
        (" 'left open --password HIDDEN ", " 'left open --password *** "),
        ("'" * 3000, "'" * 3000),
    ):
        assert mask_line(line) == shown


@pytest.mark.large("reads long texts")
@pytest.mark.parametrize(
    "part",
    ["eyJabcdefgh-", "-eyJaaaaaaaa", "eyJabcdefgh.", "token = ", "'a\" ", "a='", "https://a:", "?x-a-", "Bearer "],
)
def test_a_long_text_takes_no_long_time(part: str) -> None:
    with within(SECONDS):
        redact(part * (LONG // len(part)))
        mask_line(part * (LONG // len(part)))


PLACE = "https://h.example/model.ckpt"
SIGNATURES = """
sv=2024-11-04&st=2026-01-01&se=2099-01-01&sr=b&sp=r&skoid=o&sktid=t&skt=s&ske=e&sks=b&skv=2023-11-03&spr=https&sig=x
X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=9&X-Amz-SignedHeaders=h&X-Amz-Signature=s
x-goog-algorithm=a&x-goog-credential=c&x-goog-signature=s
AWSAccessKeyId=a&Expires=9&Signature=s
GoogleAccessId=a&Expires=9&Signature=s
Policy=p&Signature=s&Key-Pair-Id=k
token=t
access_token=t"""
NO_SIGNATURE = (
    "key hash date code sha seq set sub author update passage keyframe model_code se st sv Expires Policy sig2 "
    "tokens x-ms-version"
)


def test_address_signed_differently_is_one_file() -> None:
    for signature in SIGNATURES.split():
        assert identity(f"{PLACE}?{signature}") == PLACE
        assert identity(f"{PLACE}?id=3&{signature}") == identity(f"{PLACE}?id=3")
    for name in NO_SIGNATURE.split():
        assert len({identity(f"{PLACE}?{name}={value}") for value in ("a", "b")}) == 2, name


ADDRESSES = (f" {PLACE}?sig=x", f"{PLACE}\n", PLACE.upper())
BOTCHED = (
    "https:/h.example/a?sig=x",
    "https//h.example/a",
    "https%3A//h.example/a",
    "https:h.example?sig=x",
    "s3://bucket/a",
    " azureml://a",
)
NO_ADDRESSES = (
    "http:train_1_aa",
    "http:train_1_aa:last.ckpt",
    "httpbin_1_aa",
    "https.ckpt",
    "train:train_1_aa",
    r"C:\a",
    "C://a/b",
    "a/b.ckpt",
)


def test_runs_and_paths_are_not_taken_for_addresses() -> None:
    for texts, is_one, is_botched in ((ADDRESSES, True, False), (BOTCHED, False, True), (NO_ADDRESSES, False, False)):
        assert {text: (is_address(text), is_botched_address(text)) for text in texts} == dict.fromkeys(
            texts, (is_one, is_botched)
        )


def problem(result: TransferResult, *, is_listed: bool = False) -> HimlError:
    error = result.problem(is_listed=is_listed)
    assert error is not None
    return error


def test_common_cause_is_said_once_with_its_own_hint() -> None:
    failed = tuple(
        FileFailure(f"up/{number}", "The signature may only read.", "not_allowed", "Ask for the right to write.")
        for number in range(300)
    )
    error = problem(TransferResult(failed=failed))
    assert isinstance(error, NotAllowed)
    assert str(error) == "Failed: 'up/0', 'up/1', 'up/2' and 297 more: The signature may only read."
    assert error.hint == "Ask for the right to write."


def test_file_is_named_once_and_common_causes_are_alike() -> None:
    result = TransferResult(
        failed=tuple(FileFailure(name, f"'{name}' did not arrive.", "service_failed") for name in "ab")
    )
    assert result.is_told_by_problem
    assert str(problem(result)) == "Failed: 'a', 'b': it did not arrive."
    assert str(problem(TransferResult(failed=result.failed[:1]))) == "'a' did not arrive."
    assert (
        str(problem(TransferResult(failed=(FileFailure("a", "No connection.", "service_failed"),))))
        == "Failed: 'a'. No connection."
    )


def test_several_causes_show_first_or_count_if_already_listed() -> None:
    result = TransferResult(
        failed=(
            FileFailure("a", "No connection.", "service_failed", "Online?"),
            FileFailure("b", "Archived.", "service_failed", "Thaw it."),
        )
    )
    assert not result.is_told_by_problem
    assert str(problem(result)) == "Failed, for 2 reasons: 'a', 'b'. First: No connection."
    assert str(problem(result, is_listed=True)) == "2 files failed."
    assert problem(result).hint == "Run the command again. It skips complete files and resumes partial ones."
    error = problem(TransferResult(failed=(FileFailure("a", "Too busy.", "service_failed", "Try again later."),)))
    assert isinstance(error, ServiceFailed)
    assert error.hint == "Try again later. Then himl skips complete files and resumes partial ones."
    gone = FileFailure.of("a", NotFound("'a' was deleted during the download."))
    assert problem(TransferResult(failed=(gone,))).hint == "himl transferred all other files."
    damaged = FileFailure.of("a", IntegrityFailed("'a' arrived without its end."))
    assert (
        problem(TransferResult(failed=(damaged,))).hint
        == "himl wrote no files with these names. Run the command again."
    )


def test_each_left_out_file_has_its_own_reason() -> None:
    result = TransferResult(
        refused=(Refused("../a", "it climbs"), Refused("b//c", "it has an empty name"), Refused("d", "it climbs"))
    )
    assert isinstance(problem(result), TransferIncomplete)
    assert str(problem(result)) == "himl left out '../a' (it climbs), 'b//c' (it has an empty name), 'd' (it climbs)."
    same = TransferResult(refused=(Refused("../a", "it climbs"), Refused("../b", "it climbs")))
    assert str(problem(same)) == "himl left out '../a', '../b' (it climbs)."


def test_error_names_all_files_only_if_few_and_of_one_kind() -> None:
    assert problem(TransferResult(differing=("a",))).hint == "Add --overwrite to replace it."
    assert problem(TransferResult(differing=("a", "b"))).hint == "Add --overwrite to replace them."
    assert TransferResult(differing=("a", "b", "c")).is_told_by_problem
    assert not TransferResult(differing=("a", "b", "c", "d")).is_told_by_problem
    assert not TransferResult(differing=("a",), refused=(Refused("b", "why"),)).is_told_by_problem
