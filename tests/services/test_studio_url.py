"""Which workspace a Studio address names."""

from __future__ import annotations

import pytest

from himl_cli.core.workspaces import WorkspaceIds
from himl_cli.services.runs.lookup import workspace_in_url

RUN = "https://ml.azure.com/runs/abc?wsid="


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"{RUN}/subscriptions/s/resourcegroups/g/workspaces/w", ("s", "g", "w")),
        (f"{RUN}/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w&tid=t", ("s", "g", "w")),
        (f"{RUN}%2Fsubscriptions%2Fs%2FresourceGroups%2Fg%2Fworkspaces%2Fw", ("s", "g", "w")),
        (f"{RUN}/subscriptions/s/resourceGroups/g", None),
        ("https://ml.azure.com/runs/abc", None),
        ("https://[broken/runs/abc", None),
        ("train_1_aa", None),
        ("", None),
    ],
)
def test_the_wsid_is_read(url: str, expected: tuple[str, str, str] | None) -> None:
    assert workspace_in_url(url) == expected


def test_case_does_not_count() -> None:
    assert WorkspaceIds("s", "Group", "W").is_same(WorkspaceIds("S", "group", "w"))
    assert not WorkspaceIds("s", "g", "w").is_same(WorkspaceIds("s", "g", "w2"))
