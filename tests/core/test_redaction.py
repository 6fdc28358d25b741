"""Secrets do not get into logs, errors and settings that are shown."""

from __future__ import annotations

import pytest

from himl_cli.core.redaction import redact


@pytest.mark.parametrize(
    "text",
    [
        "https://x.blob.core.windows.net/c/f?sv=2020&sig=HIDDEN%2Fme%3D&se=1",
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
    ],
)
def test_secrets_are_masked(text: str) -> None:
    masked = redact(text)
    assert "HIDDEN" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "text",
    ["No run 'train_1_aa' in local workspace '.himl'.", "--num_tokens=5", "tokenizer=bert", "a=b", "https://example.org/x?y=z", "key: value", "C:\\Users\\x"],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text
