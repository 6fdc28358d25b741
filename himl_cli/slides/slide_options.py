"""Shared parts of the commands on slides: options for slides, reading and clusters, the folder of slides, and the same
command as a job.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from himl_cli.commands.options import (
    MOST_WORKERS,
    Bundle,
    OutputOptions,
    WorkspaceOptions,
    option,
    options_of,
    parse_list,
    parse_workers,
)
from himl_cli.commands.session import For, open_session, output_session
from himl_cli.core.engines import engine_address
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import did_you_mean, non_blank
from himl_cli.slides.slide_records import Backend, SlideFolder

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.slides.cluster import SlideJob
    from himl_cli.slides.query import SlideQuery

Kind = TypeVar("Kind", bound=Enum)


def parse_path(option: str, text: str) -> Path:
    from himl_cli.core.files import expand_home

    return expand_home(non_blank(option, text))


def parse_member(option: str, text: str, kind: type[Kind]) -> Kind:
    """The member of *kind* with the name *text*, in any case. Raises BadUsage with the nearest name."""
    known = {str(each.value): each for each in kind}
    found = known.get(text.strip().lower())
    if found is None:
        raise BadUsage(
            f"{option} cannot be '{text}'.",
            hint=f"{did_you_mean(text.lower(), known)} It is one of: {', '.join(known)}.".strip(),
        )
    return found


LEAST_MPP, MOST_MPP = 0.01, 1000.0


def parse_mpp(option: str, mpp: float) -> float:
    if not LEAST_MPP <= mpp <= MOST_MPP:
        raise BadUsage(
            f"{option} must be a number of micrometres from {LEAST_MPP} to {MOST_MPP:,.0f}, not {mpp:g}.",
            hint="A pixel has about 0.25 at magnification 40, and 0.5 at 20.",
        )
    return mpp


class SlideOptions(Bundle):
    image_glob: str | None = option(
        "Files in the folder, such as '**/*.tiff' (default: all).", "GLOB", parse=non_blank, panel="Slides"
    )
    include_by_slide_id: Path | None = option(
        "Only slides with ids in this text or CSV file.", "FILE", parse=parse_path
    )
    exclude_by_slide_id: Path | None = option("Only slides with ids not in this file.", "FILE", parse=parse_path)
    datastore: str | None = option("Datastore of the folder or CSV.", "NAME", parse=non_blank)

    def validate(self) -> None:
        if len(self.lists) > 1:
            raise BadUsage(f"{' and '.join(self.lists)} cannot be combined.", hint="Omit one of them.")

    @property
    def lists(self) -> dict[str, Path]:
        """The files with ids, by option."""
        lists = {
            "--include_by_slide_id": self.include_by_slide_id,
            "--exclude_by_slide_id": self.exclude_by_slide_id,
        }
        return {name: path for name, path in lists.items() if path is not None}

    def query(self, csv: str | None) -> SlideQuery:
        from himl_cli.slides.query import SlideQuery

        return SlideQuery(self.image_glob, csv, self.include_by_slide_id, self.exclude_by_slide_id)


class ReaderOptions(Bundle):
    backend: Backend = option(
        "Slide reader: auto, tifffile, openslide or cucim.",
        "NAME",
        Backend.auto.value,
        parse=lambda name, text: parse_member(name, text, Backend),
        panel="Processing",
    )
    workers: int | None = option(
        f"Threads, 1 to {MOST_WORKERS} (default: one per core).", "N", kind=int | None, parse=parse_workers
    )
    strict: bool = option("Exit with 1 if a slide is unreadable.", default=False)


def parse_cluster(option: str, name: str) -> str:
    """Check the name of an Azure ML compute. Raises BadUsage for that of another engine."""
    if engine_address(non_blank(option, name)) is not None:
        raise BadUsage(
            f"{option} {name}: this command runs on this machine or on Azure ML.",
            hint="Omit --cluster, or name an Azure ML compute.",
        )
    return name


class ClusterOptions(Bundle):
    cluster: str | None = option("Azure ML compute, or local.", "NAME", parse=parse_cluster, panel="Compute")
    conda_env: Sequence[str] = option("Conda files of the job's environment.", "FILE,...", many=True, parse=parse_list)
    private_wheel: str | None = option("himl wheel to install in the job.", "FILE", parse=non_blank)
    shm_size: str | None = option("Shared memory (default: 100g).", "SIZE", parse=non_blank)
    experiment: str | None = option("Experiment (default: the command's name).", "NAME", parse=non_blank)
    display_name: str | None = option("Display name of the run.", "NAME", parse=non_blank)
    wait: bool = option("Wait for the job to end.", default=False)

    @property
    def is_here(self) -> bool:
        return self.cluster in (None, "local")

    @property
    def given(self) -> dict[str, object]:
        """The options for jobs that the user set."""
        values = {name: getattr(self, name) for name in options_of(type(self)) if name != "cluster"}
        return {name: value for name, value in values.items() if value}

    def job(
        self,
        command: str,
        dataset: str,
        slides: SlideOptions,
        reader: ReaderOptions,
        output_path: Path,
        values: Mapping[str, object],
        files: Mapping[str, Path] | None = None,
    ) -> SlideJob:
        """The *command* as a job, with all *values* written out, as the defaults of the job's himl may differ, and with
        local *files* or folders, by option. Raises BadUsage for an *output_path* other than the default."""
        from himl_cli.services.submission.request import SubmitRequest
        from himl_cli.slides.cluster import OUTPUT, SlideJob

        if output_path != Path(OUTPUT):
            raise BadUsage(
                "--output_path is only for local use. A job saves files as outputs of its run.",
                hint="Omit it, and download the files: himl download RUN --output_dir DIR",
            )
        values = {**values, "backend": reader.backend.value, "workers": reader.workers, "strict": reader.strict}
        of_job = {name: value for name, value in self.given.items() if name != "wait"}
        return SlideJob(
            command=command,
            job=SubmitRequest(cwd=Path.cwd(), cluster=self.cluster, **of_job),  # type: ignore[arg-type]  # by name
            dataset=dataset,
            image_glob=slides.image_glob,
            options=[
                f"--{name}" if value is True else f"--{name}={value}"
                for name, value in values.items()
                if value is not None and value is not False
            ],
            lists=slides.lists,
            files=files or {},
            datastore=slides.datastore,
        )


def check_packages(what: str) -> None:
    """Check the packages of the extra `montage`, which *what* needs, without importing them. Raises BadUsage."""
    from importlib.util import find_spec

    from himl_cli.core.installation import install_command

    packages = {  # by module
        "numpy": "numpy",
        "PIL": "pillow",
        "tifffile": "tifffile",
        "imagecodecs": "imagecodecs",
        "openslide": "openslide-python",
        "isal": "isal",
    }
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise BadUsage(
            f"{what} {', '.join(missing)}, which {are} not installed.",
            hint=f"Install {them}: {install_command('montage')}",
        )


@contextmanager
def slide_folder(
    dataset: str,
    datastore: str | None,
    cluster: ClusterOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> Iterator[tuple[SlideFolder, str | None, Output, Notify]]:
    """Yield the folder of slides, the CSV's name (None for a folder), the output and an observer of progress.

    Opens a workspace only for a datastore. Prints a notice about ignored options for jobs.
    """
    import logging

    # tifffile logs errors without the slide's name. himl reports them with it.
    if not output_opts.verbose:
        logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    passed_over = ", ".join(f"--{name}" for name in cluster.given)
    notice = f"Ignored without --cluster: {passed_over}."
    if datastore is None:
        from himl_cli.core.files import expand_home
        from himl_cli.slides.query import local_dataset

        with output_session(output_opts) as (output, notify):
            found = local_dataset(expand_home(dataset))
            if passed_over:
                output.notice(notice)
            yield *found, output, notify
    else:
        from himl_cli.slides.stored import cache_limit, open_stored

        with open_session(workspace_opts, output_opts, For.data) as session:
            store, limit = session.workspace.datastore(datastore), cache_limit(session.cwd)
            with open_stored(store, dataset, limit, session.notify) as (folder, csv):
                if passed_over:
                    session.output.notice(notice)
                yield folder, csv, session.output, session.notify


def run_on_azure(workspace_opts: WorkspaceOptions, output_opts: OutputOptions, request: SlideJob, waits: bool) -> None:
    """Submit the same command as a job. After the submission, Ctrl-C only stops the waiting.

    Prints remarks after the submission, so that an error stands alone. Raises BadUsage, JobFailed, Interrupted, and the
    errors of the submission.
    """
    from functools import partial
    from tempfile import TemporaryDirectory

    from himl_cli.commands.submit_job import wait_or_leave
    from himl_cli.render.job_views import print_prepared
    from himl_cli.render.progress import Watcher
    from himl_cli.services.runs.follow import naming_started, watching
    from himl_cli.services.submission.start import start_and_note
    from himl_cli.slides.cluster import check_data, prepare_slide_job
    from himl_cli.workspaces.resolve import azure_for_jobs

    azure_for_jobs(*workspace_opts.names, start=request.job.cwd)  # before other checks
    with TemporaryDirectory(prefix=f"himl-{request.command}-") as folder:
        job = prepare_slide_job(request, Path(folder))
        with open_session(workspace_opts, output_opts, For.clusters) as session:
            check_data(request, session.workspace.datastore)
            with Watcher(session.output) as shown, naming_started(shown) as notify:
                run = start_and_note(partial(session.taker.submit, job.spec), request.job.cwd, notify)
                with watching(run.id):
                    shown.close()  # before other output
                    print_prepared(session.output, job.remarks, job.report)
                wait_or_leave(session, run, waits=waits, follows=False)
