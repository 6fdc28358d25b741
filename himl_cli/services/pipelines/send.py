"""Handing a prepared pipeline to a workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from himl_cli.core.clusters import SERVERLESS
from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.pipelines import PipelineSpec
from himl_cli.core.runs import Run
from himl_cli.services.latest_run_file import FILE_NAME, write_latest_run
from himl_cli.services.pipelines.prepared import INPUT, PreparedPipeline
from himl_cli.services.run_logs import watching
from himl_cli.workspaces.base import Workspace
from himl_cli.workspaces.job_abilities import CreatesClusters, RunsPipelines


def check_cluster(prepared: PreparedPipeline, workspace: Workspace) -> None:
    """Look whether the pipeline's cluster is there, unless it is to be made, before a container is registered for
    nothing.

    Raises NotFound, and as the workspace does.
    """
    if not isinstance(workspace, CreatesClusters):
        return
    name = prepared.spec.cluster
    if (
        prepared.cluster is None
        and prepared.container is not None
        and name.lower() != SERVERLESS
        and not workspace.has_cluster(name)
    ):
        raise NotFound(
            f"No compute '{name}' in {workspace.label}.", hint="--create_cluster makes it; --cluster names another one."
        )


@contextmanager
def in_words_of_the_file(prepared: PreparedPipeline) -> Iterator[None]:
    """Within it, errors about a step name the pipeline's file too, and the field that an input stands in."""
    try:
        yield
    except (BadUsage, NotFound) as err:
        key, colon, text = str(err).partition(": ")
        if not colon or key not in [step.key for step in prepared.spec.steps]:
            raise
        item = prepared.data.get(key)
        if item is not None:
            text = text.replace(f"Input '{INPUT}'", f"'{item.field}' '{item.name}'", 1)
        err.args = (f"'{prepared.shown}', {key}: {text}",)
        raise


def submit_pipeline(workspace: Workspace, spec: PipelineSpec, cwd: Path, notify: Notify) -> Run:
    """Start the pipeline and note it in *cwd* as the latest run. Raises what the workspace raises; nothing then
    runs."""
    if not isinstance(workspace, RunsPipelines):
        raise HimlError(f"{workspace.label} does not run pipelines.")
    pipelines = workspace
    return noted(lambda: pipelines.submit_pipeline(spec, notify=notify), cwd, notify)


def noted(start: Callable[[], Run], cwd: Path, notify: Notify) -> Run:
    """What *start* started, noted in *cwd* as the latest run. Raises Interrupted, naming the run, once there is one."""
    run = start()
    with watching(run.id):
        try:
            write_latest_run(cwd, run)
        except OSError as err:
            notify(Notice(f"Could not write {FILE_NAME} in '{cwd}': {err.strerror}."))
    return run
