"""What of an address tells one file from another, and what is an address at all."""

from __future__ import annotations

import pytest

from himl_cli.core.redaction import identity, is_address, is_botched_address

PLACE = "https://h.example/model.ckpt"
SAS = "sv=2024-11-04&st=2026-01-01&se=2099-01-01&sr=b&sp=r&skoid=o&sktid=t&skt=s&ske=e&sks=b&skv=2023-11-03&spr=https&sig=x"


@pytest.mark.parametrize(
    "signature",
    [
        SAS,
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=s",
        "x-goog-algorithm=a&x-goog-credential=c&x-goog-signature=s",
        "AWSAccessKeyId=a&Expires=9&Signature=s",
        "GoogleAccessId=a&Expires=9&Signature=s",
        "Policy=p&Signature=s&Key-Pair-Id=k",
        "token=t",
        "access_token=t",
    ],
)
def test_however_it_is_signed_it_is_one_file(signature: str) -> None:
    assert identity(f"{PLACE}?{signature}") == PLACE
    assert identity(f"{PLACE}?id=3&{signature}") == identity(f"{PLACE}?id=3")


NO_SIGNATURE = """
    key hash date code sha seq set sub author update passage keyframe model_code se st sv Expires Policy sig2 tokens x-ms-version
"""


@pytest.mark.parametrize("name", NO_SIGNATURE.split())
def test_what_belongs_to_no_signature_tells_files_apart(name: str) -> None:
    assert len({identity(f"{PLACE}?{name}={value}") for value in ("a", "b")}) == 2


@pytest.mark.parametrize("text", [f" {PLACE}?sig=x", f"{PLACE}\n", PLACE.upper()])
def test_blanks_around_an_address_are_none_of_it(text: str) -> None:
    assert (is_address(text), is_botched_address(text)) == (True, False)


@pytest.mark.parametrize(
    "text", ["https:/h.example/a?sig=x", "https//h.example/a", "https%3A//h.example/a", "https:h.example?sig=x", "s3://bucket/a", " azureml://a"]
)
def test_what_must_be_meant_as_an_address(text: str) -> None:
    assert (is_address(text), is_botched_address(text)) == (False, True)


@pytest.mark.parametrize(
    "text", ["http:train_1_aa", "http:train_1_aa:last.ckpt", "httpbin_1_aa", "https.ckpt", "train:train_1_aa", r"C:\a", "C://a/b", "a/b.ckpt"]
)
def test_runs_and_paths_are_not_taken_for_addresses(text: str) -> None:
    assert (is_address(text), is_botched_address(text)) == (False, False)
