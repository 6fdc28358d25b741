"""The workspace that parsers are told to be in, and a job there."""

from __future__ import annotations

from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress

ADDRESS = WorkspaceAddress("0f0f0f0f-0000-4000-8000-000000000000", "group", "ws", PUBLIC, "fuzzing")
JOB = "train_1700000000_0badcafe"
