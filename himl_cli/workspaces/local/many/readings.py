"""What running trials logged of the primary metric, read no oftener than it is worth."""

from __future__ import annotations

import time
from collections.abc import Mapping

from himl_cli.workspaces.local.metric_store import MetricStore

SECONDS_BETWEEN_LOOKS = 0.25
SHARE_OF_TIME = 10  # with many trials and long series: a tenth of the time at most goes into reading and judging

Reading = tuple[str, int, float]


class Readings:
    """The values of the metric *name*. `look` and `is_due` are for going round and round, `take` is for now."""

    def __init__(self, metrics: MetricStore, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._version = -1
        self._next_look = 0.0

    def take(self, places: Mapping[str, int]) -> list[Reading]:
        """Run, place and value, in the order logged, of what each run of *places* logged after the place given there.
        Raises HimlError."""
        return self._metrics.values_after(self._name, places)

    def look(self, places: Mapping[str, int]) -> list[Reading]:
        """As `take`; nothing where nobody wrote to the database since the last look, which costs nothing then. Raises
        HimlError."""
        version = self._metrics.version()
        if version == self._version:
            return []
        found = self.take(places)
        self._version = version
        return found

    @property
    def is_due(self) -> bool:
        """Whether it is time to look again."""
        return time.monotonic() >= self._next_look

    def rest_after(self, seconds: float) -> None:
        """The next look comes so much later that *seconds*, what this one took with all that followed from it, are a
        tenth of the time."""
        self._next_look = time.monotonic() + max(SECONDS_BETWEEN_LOOKS, SHARE_OF_TIME * seconds)
