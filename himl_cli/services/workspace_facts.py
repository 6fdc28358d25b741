"""Asking each workspace that is meant what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from himl_cli.core.errors import HimlError, WorkspaceNotFound
from himl_cli.core.workspaces import WorkspaceFacts
from himl_cli.workspaces.base import FoundWorkspace


@dataclass(frozen=True)
class AskedWorkspace:
    """What is known of a workspace, and why it is no more: `error` is what the request to it raised."""

    facts: WorkspaceFacts
    error: HimlError | None = None


def facts_of(found: Sequence[FoundWorkspace], *, ask: bool = True) -> list[AskedWorkspace]:
    """What is known of each of *found*: without *ask*, and of one that does not answer, what its configuration says.

    Raises WorkspaceNotFound where there is none.
    """
    if not found:
        raise WorkspaceNotFound(
            "No workspace is configured, and there is none here.", hint="'himl doctor' says where one is looked for."
        )
    return [_asked(each) if ask else AskedWorkspace(_configured(each)) for each in found]


def _configured(each: FoundWorkspace) -> WorkspaceFacts:
    return WorkspaceFacts(each.kind, each.label, each.source, each.facts)


def _asked(each: FoundWorkspace) -> AskedWorkspace:
    try:
        workspace = each.open()
        facts = workspace.describe()
    except HimlError as error:
        return AskedWorkspace(_configured(each), error)
    return AskedWorkspace(replace(facts, source=each.source))
