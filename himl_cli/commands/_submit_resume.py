"""What `himl submit --resume RUN` does."""

from __future__ import annotations

from collections.abc import Mapping

from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._session import open_session
from himl_cli.commands._submit_options import RENAMED, TYPED
from himl_cli.commands._submit_run import wait_here
from himl_cli.core.errors import BadUsage
from himl_cli.core.processes import interruptions
from himl_cli.core.text import non_blank
from himl_cli.render.submission import say_left_running, say_resumed
from himl_cli.services.run_reference import parse_reference
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.resume import COUNT, OF_RECORD, resume_run

MEANT = (*COUNT, *OF_RECORD, "resume", "target", "module", "wait", "follow")
SHARED = ("workspace", "config_file", "format", "json", "quiet", "verbose", "yes")


def resume(
    where: WorkspaceOptions,
    talk: OutputOptions,
    wanted: str,
    request: SubmitRequest,
    *,
    waits: bool,
    sources: Mapping[str, str],
) -> None:
    """Go on with the run. Ctrl-C cancels it while it is waited for. Raises JobFailed, Interrupted, BadUsage,
    RunNotFound."""
    for name, source in sources.items():
        if source == TYPED and RENAMED.get(name, name) not in (*MEANT, *SHARED):
            raise BadUsage(
                f"--{name} does not go with --resume: the run goes on as it was submitted.",
                hint="Leave it out; --max_concurrent and --env_var may be given.",
            )
    if request.max_concurrent is not None and request.max_concurrent < 1:
        raise BadUsage(f"--max_concurrent {request.max_concurrent}: at least 1 is needed.")
    parse_reference(non_blank("--resume", wanted) or "")
    with open_session(where, talk) as session, interruptions() as interrupted:
        run, seen = resume_run(session.workspace, wanted, request, session.notify)
        say_resumed(session.output, run)
        if waits:
            wait_here(session, run, interrupted, start=seen)
        else:
            say_left_running(session.output, run)
