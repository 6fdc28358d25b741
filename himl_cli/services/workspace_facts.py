"""Asking each workspace that is meant what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from himl_cli.core.errors import WorkspaceNotFound
from himl_cli.core.workspace_facts import WorkspaceFacts
from himl_cli.workspaces.abilities import DescribesItself
from himl_cli.workspaces.base import FoundWorkspace


def facts_of(found: Sequence[FoundWorkspace]) -> list[WorkspaceFacts]:
    """What is known of each of *found*. Raises WorkspaceNotFound where there is none, and what a request to one raises."""
    if not found:
        raise WorkspaceNotFound("No workspace is configured, and there is none here.", hint="'himl doctor' says where one is looked for.")
    return [replace(_facts(each), source=each.source) for each in found]


def _facts(each: FoundWorkspace) -> WorkspaceFacts:
    workspace = each.open()
    return workspace.describe() if isinstance(workspace, DescribesItself) else WorkspaceFacts(each.kind, each.label, each.source)
