"""Names of experiments: a run's record holds the id of its experiment only."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import unexpected
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.requests.kept import LONGEST_SECONDS
from himl_cli.workspaces.azure.requests.threads import ask_all

KIND = "experiments"
KEPT_SECONDS = LONGEST_SECONDS
"""An experiment keeps its name for ever; the bound is there so that the cache does not grow for ever."""


class Experiments:
    """Names by id, remembered between calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._names: dict[str, str] = {}

    def name(self, experiment_id: str) -> str:
        """The experiment's name; one request where it is not known yet. Its id, where it was deleted since."""
        if experiment_id not in self._names:
            kept = self._connection.kept.get(KIND, self._key(experiment_id))
            self._names[experiment_id] = kept if isinstance(kept, str) else self._ask(experiment_id)
        return self._names[experiment_id]

    def learn(self, experiment_ids: Iterable[str]) -> None:
        """Ask for the names of all of these that are not known yet, several at once."""
        ask_all(self.name, [one for one in dict.fromkeys(experiment_ids) if one not in self._names])

    def _ask(self, experiment_id: str) -> str:
        url = self._connection.history(f"/experimentids/{quote(experiment_id, safe='')}")
        try:
            name = self._connection.rest.get_object(url, "experiment").get("name")
        except ServiceNotFound:
            return experiment_id  # its runs are there still
        if not isinstance(name, str) or not name:
            raise unexpected(url, "it holds no experiment")
        self._connection.kept.put(KIND, self._key(experiment_id), name, seconds=KEPT_SECONDS)
        return name

    def _key(self, experiment_id: str) -> str:
        return self._connection.key(experiment_id.lower())
