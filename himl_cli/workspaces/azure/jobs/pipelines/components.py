"""What the steps of pipelines run, as components without a name: registered where they are new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.pipelines.forms import StepForm
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.kept import LONGEST_SECONDS
from himl_cli.workspaces.azure.requests.threads import ask_all

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.jobs.builder import Built

KIND = "components"
Part = tuple[StepForm, str, str]
"""A step, the id of its code and that of its environment."""


class Components:
    """The components of one workspace; which one has what contents is kept for two days."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._remembered: dict[str, str] = {}  # ids, by key, of those that nobody was asked for

    def of(self, steps: Sequence[Part]) -> list[str]:
        """The ids of the components of *steps*, in their order: those that are not known are registered, the same
        contents once.

        Needs azure-ai-ml, which is loaded. Raises BadUsage where it does not take a step, and as `Rest` does.
        """
        from himl_cli.workspaces.azure.jobs.pipelines.builder import build_component

        built = [build_component(self._connection.address, *step) for step in steps]
        requests = {self._key(one): one for one in built}
        kept = {key: self._connection.kept.get(KIND, key) for key in requests}
        self._remembered = {key: id for key, id in kept.items() if isinstance(id, str) and id}
        new = [key for key in requests if key not in self._remembered]
        made = dict(zip(new, ask_all(lambda key: self._register(key, requests[key]), new), strict=True))
        return [self._remembered.get(key) or made[key] for key in map(self._key, built)]

    def forget_lost(self, is_gone: Callable[[str], bool]) -> bool:
        """Drop those that were remembered and are gone; whether there was any."""
        lost = [key for key, id in self._remembered.items() if is_gone(id)]
        for key in lost:
            self._connection.kept.forget(KIND, key)
        return bool(lost)

    def _register(self, key: str, built: Built) -> str:
        """Register the component, and give the id that the service answers with: it may know these contents under
        another version."""
        url = self._connection.arm(quote(built.path))
        answer = self._connection.rest.send("PUT", url, params={"api-version": built.api_version}, json=built.body).body
        with understood(url, "the component"):
            id = str(answer["id"])
        self._connection.kept.put(KIND, key, id, seconds=LONGEST_SECONDS)
        return id

    def _key(self, built: Built) -> str:
        contents = json.dumps([built.path, built.api_version, built.body], sort_keys=True)
        return self._connection.key(f"component {hashlib.sha256(contents.encode()).hexdigest()}")
