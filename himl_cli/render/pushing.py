"""What `himl checkpoint push` says."""

from __future__ import annotations

from himl_cli.core.blobs import named
from himl_cli.core.checkpoints import PushedCheckpoints
from himl_cli.render.json_form import run_form
from himl_cli.render.output import Output


def say_pushed(output: Output, pushed: PushedCheckpoints) -> None:
    """The new run's id, alone on stdout; where it is, and how jobs start from it."""
    run, count, same = pushed.run, len(pushed.names), len(pushed.unchanged)
    if same == count:
        output.notice(
            f"warning: {'the file is' if count == 1 else 'all files are'} as run {pushed.source.id} has "
            f"{'it' if count == 1 else 'them'}."
        )
    elif same:
        output.notice(f"Unchanged, and pushed all the same: {named(pushed.unchanged)}.")
    data = {
        **run_form(run),
        "from": pushed.source.id,
        "files": list(pushed.names),
        "unchanged": list(pushed.unchanged),
        "checkpoint": pushed.start,
    }
    output.result(data, human=run.id, quiet=run.id)
    studio = f" Studio: {run.url}" if run.url else ""
    output.notice(
        f"{count:,} file{'s' * (count != 1)} in run {run.id} (experiment {run.experiment}) in {run.workspace}.{studio}"
    )
    output.notice(f"Start from it: himl submit SCRIPT --checkpoint {pushed.start}")


def say_rank_does_nothing(output: Output, rank: int) -> None:
    output.notice(f"Rank {rank} pushes nothing: rank 0 does.")
