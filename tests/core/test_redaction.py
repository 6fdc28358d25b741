"""Secrets do not get into logs, errors and settings that are shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from himl_cli.core.redaction import mask_arguments, mask_document, mask_line, redact
from tests.support.hostile_texts import LONG, SECONDS, within


@pytest.mark.parametrize(
    "text",
    [
        "https://x.blob.core.windows.net/c/f?sv=2020&sig=HIDDEN%2Fme%3D&se=1",
        "https://x.s3.amazonaws.com/f?X-Amz-Date=1&X-Amz-Signature=HIDDEN",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=HIDDEN==;EndpointSuffix=x",
        "Authorization: Bearer HIDDEN.abc",
        "authorization: basic HIDDEN",
        "https://user:HIDDEN@example.org/simple",
        "AZURE_CLIENT_SECRET=HIDDEN",
        "service_principal_password = 'HIDDEN'",
        '{"access_token": "HIDDEN"}',
        "token eyJhbGciOiJHIDDEN.eyJzdWIiOiJHIDDEN.c2lnHIDDEN",
        "--api-key=HIDDEN",
        "MLFLOW_TRACKING_TOKEN=HIDDEN",
        "AZURE_STORAGE_KEY=HIDDEN",
        "for ghp_HIDDEN0123456789abcdefgh",
        "application_key: 'HIDDEN'",
        "password=p@HIDDEN",
        "mysql://me:HIDDEN@host/db",
        "run-eyJhbGciOiJHIDDEN.eyJzdWIiOiJHIDDEN.c2lnHIDDEN",
        "a.b-eyJ-eyJhbGciOiJHIDDEN.eyJHIDDEN.HIDDEN",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    masked = redact(text)
    assert "HIDDEN" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text",
    [
        "No run 'train_1_aa' in local workspace '.himl'.",
        "--num_tokens=5",
        "tokenizer=bert",
        "a=b",
        "https://example.org/x?y=z",
        "key: value",
        "public_key=abc",
        "num_keys=3",
        "C:\\Users\\x",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--wandb-key", "HIDDEN", "--lr", "1"], ["--wandb-key", "***", "--lr", "1"]),
        (["--wandbKey=HIDDEN", "monkey=1", "MYPW=HIDDEN"], ["--wandbKey=***", "monkey=1", "MYPW=***"]),
        (
            ["--token_count", "5", "--max_token", "9", "--pad_token_id", "0", "--token_count=HIDDEN", "--token-len", "HIDDEN"],
            ["--token_count", "5", "--max_token", "9", "--pad_token_id", "0", "--token_count=***", "--token-len", "***"],
        ),
        (
            ["--token", "123456", "--api_token=1234", "--api_token_id", "0123456789", "--password_length=12"],
            ["--token", "***", "--api_token=***", "--api_token_id", "***", "--password_length=***"],
        ),
        (["STORAGE_KEY=HIDDEN with spaces"], ["STORAGE_KEY=***"]),
        (["-e", "MY_PAT=HIDDEN", "-eMY_PAT=HIDDEN", "--env=MY_PAT=HIDDEN"], ["-e", "MY_PAT=***", "-eMY_PAT=***", "--env=MY_PAT=***"]),
        (["bash", "-c", "train --api-key HIDDEN && done"], ["bash", "-c", "train --api-key *** && done"]),
        (["--docker_args=-e MY_PAT=HIDDEN --shm-size 4g"], ["--docker_args=-e MY_PAT=*** --shm-size 4g"]),
    ],
)
def test_arguments_are_masked_by_their_names(arguments: list[str], shown: list[str]) -> None:
    assert mask_arguments(arguments) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("-e MY_TOKEN=HIDDEN --password HIDDEN  --gpus all", "-e MY_TOKEN=*** --password ***  --gpus all"),
        ("-e 'MY_PAT=HID DEN' -e \"B=c d\"", "-e 'MY_PAT=***' -e \"B=c d\""),
        ("-e MY_PAT='HID DEN' x", "-e MY_PAT=*** x"),
        (" 'left open --password HIDDEN ", " 'left open --password *** "),
        ("'" * 3000, "'" * 3000),
    ],
)
def test_a_line_is_masked_and_stays_otherwise(line: str, shown: str) -> None:
    assert mask_line(line) == shown


@pytest.mark.parametrize("part", ["eyJabcdefgh-", "-eyJaaaaaaaa", "eyJabcdefgh.", "token = ", "'a\" ", "a='", "https://a:", "?x-a-", "Bearer "])
@pytest.mark.parametrize("mask", [redact, mask_line])
def test_a_long_text_takes_no_long_time(part: str, mask: Callable[[str], str]) -> None:
    with within(SECONDS):
        mask(part * (LONG // len(part)))


def test_mask_document_masks_by_text_shape_and_key_name() -> None:
    document = {"api_key": "HIDDEN", "token_count": "5", "inputs": [{"path": "https://x.example/f?sig=HIDDEN"}, "Bearer HIDDEN"], "nodes": 2}
    assert mask_document(document) == {"api_key": "***", "token_count": "5", "inputs": [{"path": "https://x.example/f?sig=***"}, "Bearer ***"], "nodes": 2}
