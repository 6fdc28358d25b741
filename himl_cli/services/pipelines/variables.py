"""What DeepSeismic's `.env` says of a pipeline's storage and cluster; variables that are set win over the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.clusters import ClusterSpec
from himl_cli.core.containers import ContainerSpec
from himl_cli.core.errors import BadUsage
from himl_cli.services.settings_import.dotenv import parse_dotenv
from himl_cli.services.submission.quantities import MOST_NODES
from himl_cli.services.text_files import read_text

FILE = ".env"
ACCOUNT, CONTAINER, KEY, SUBSCRIPTION = "BLOB_ACCOUNT_NAME", "BLOB_CONTAINER_NAME", "BLOB_ACCOUNT_KEY", "BLOB_SUB_ID"
CLUSTER, LEAST, MOST, SIZE = (
    "AML_COMPUTE_CLUSTER_NAME",
    "AML_COMPUTE_CLUSTER_MIN_NODES",
    "AML_COMPUTE_CLUSTER_MAX_NODES",
    "AML_COMPUTE_CLUSTER_SKU",
)
NAMES = (ACCOUNT, CONTAINER, KEY, SUBSCRIPTION, CLUSTER, LEAST, MOST, SIZE)
DEFAULT_SIZE = "Standard_NC6"
"""What DeepSeismic's documents name; a cluster that exists is used whatever its size is."""


@dataclass(frozen=True)
class PipelineVariables:
    """The variables that are set, and where each was read: `variable` for the environment, else the file. Its text
    shows no value."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.values.get(CLUSTER, "")

    def place_of_cluster(self) -> str:
        """Where the cluster is named, as a sentence says it."""
        source = self.sources.get(CLUSTER, "")
        return f"the variable {CLUSTER}" if source == "variable" else f"{CLUSTER} in '{source}'"

    def container(self, name: str) -> ContainerSpec | None:
        """The blob container that holds the data, to be called *name* where it is registered; None where it is not
        named.

        Raises BadUsage where half of it is named, without its values.
        """
        account, container = self.values.get(ACCOUNT, ""), self.values.get(CONTAINER, "")
        if not account and not container:
            return None
        if not account or not container:
            given, lacking = (ACCOUNT, CONTAINER) if account else (CONTAINER, ACCOUNT)
            raise BadUsage(
                f"{given} is set, and {lacking} is not.",
                hint=f"Set both, in {self.sources.get(given)!r} or the environment, or neither.",
            )
        return ContainerSpec(account, container, self.values.get(KEY, ""), self.values.get(SUBSCRIPTION, ""), name)

    def cluster_spec(self, name: str, nodes: int, step: str) -> ClusterSpec:
        """The cluster *name* as it is to be made; without a word on its size it gets *nodes* at most, which *step*
        wants.

        Raises BadUsage for numbers that are none, and for fewer.
        """
        least, most = self._count(LEAST, 0), self._count(MOST, nodes)
        if least > most:
            raise BadUsage(f"{LEAST} is {least}, and {MOST} is {most}.", hint="The first is the smaller number.")
        if nodes > most:
            raise BadUsage(
                f"{MOST} is {most}, and {step} has a node_count of {nodes}.",
                hint="The largest step has to fit into the cluster.",
            )
        return ClusterSpec(name, self.values.get(SIZE, "") or DEFAULT_SIZE, least, most)

    def _count(self, name: str, default: int) -> int:
        text = self.values.get(name, "")
        if text and not (text.isascii() and text.isdigit()):
            raise BadUsage(f"{name} cannot be '{text}'.", hint="It is a whole number of nodes.")
        if len(text.lstrip("0")) > len(str(MOST_NODES)) or int(text or 0) > MOST_NODES:
            raise BadUsage(f"{name}: a cluster has {MOST_NODES:,} nodes at most.")
        return int(text) if text else default


def pipeline_variables(start: Path, cwd: Path, env: Mapping[str, str]) -> PipelineVariables:
    """What is set in *env*, and in the nearest `.env` that sets any of it, from *start* upward, else from *cwd*. Raises
    BadUsage for a file that is broken."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for folder in dict.fromkeys((start, *start.parents, cwd, *cwd.parents)):
        path = folder / FILE
        found = _read(path) if path.is_file() else {}
        if found:
            values, sources = dict(found), dict.fromkeys(found, str(path))
            break
    for name in NAMES:
        if env.get(name):
            values[name], sources[name] = env[name], "variable"
    return PipelineVariables(values, sources)


def _read(path: Path) -> dict[str, str]:
    text = read_text(path, FILE)
    if not any(name in text for name in NAMES):
        return {}
    return {name: value for name, value in parse_dotenv(text, path).items() if name in NAMES and value}
