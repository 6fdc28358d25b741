"""What `himl montage --cluster` does once its options are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands._montage_options import ClusterOptions, HowOptions, PictureOptions, SlideOptions
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.core.errors import BadUsage

if TYPE_CHECKING:
    from himl_cli.services.montage.on_cluster import ClusterMontage
    from himl_cli.services.submission.request import PreparedJob


def montage_on_cluster(
    where: WorkspaceOptions,
    talk: OutputOptions,
    dataset: str,
    slides: SlideOptions,
    picture: PictureOptions,
    how: HowOptions,
    cluster: ClusterOptions,
) -> None:
    """Submit the same command as a job. Once it is there, Ctrl-C ends the waiting only. Raises BadUsage, JobFailed,
    Interrupted, and what submitting raises."""
    from tempfile import TemporaryDirectory

    from himl_cli.services.montage.on_cluster import OUTPUT, prepare_montage
    from himl_cli.workspaces.open import azure_for_jobs

    cwd = Path.cwd()
    if picture.output != Path(OUTPUT):
        raise BadUsage(
            "--output_path is for a montage that is made here; that of a job is among the outputs of its run.",
            hint="Leave it out, and fetch it: himl download RUN --output_dir DIR",
        )
    asked = _asked(cwd, dataset, slides, picture, how, cluster)
    azure_for_jobs(where.workspace, where.config_file, start=cwd)  # before anything is looked at
    with TemporaryDirectory(prefix="himl-montage-") as folder:
        _submit(where, talk, asked, prepare_montage(asked, Path(folder)), waits=cluster.wait)


def _asked(
    cwd: Path, dataset: str, slides: SlideOptions, picture: PictureOptions, how: HowOptions, cluster: ClusterOptions
) -> ClusterMontage:
    from himl_cli.services.montage.on_cluster import ClusterMontage

    lists = {"--include_by_slide_id": slides.include, "--exclude_by_slide_id": slides.exclude}
    return ClusterMontage(
        cwd=cwd,
        cluster=str(cluster.cluster),
        dataset=dataset,
        image_glob=slides.image_glob,
        options=_passed_on(picture, how),
        lists={option: path for option, path in lists.items() if path is not None},
        datastore=slides.datastore,
        conda_env=cluster.conda_env,
        private_wheel=cluster.private_wheel,
        shm_size=cluster.shm_size,
        experiment=cluster.experiment,
        display_name=cluster.display_name,
    )


def _submit(
    where: WorkspaceOptions, talk: OutputOptions, asked: ClusterMontage, job: PreparedJob, *, waits: bool
) -> None:
    """Send *job*; what was decided for the user is said once it is there, so that an error stands alone. Raises
    JobFailed, Interrupted."""
    from himl_cli.commands.session import For, open_session
    from himl_cli.commands.submit_job import naming_once_made, wait_or_leave
    from himl_cli.render.jobs import print_prepared
    from himl_cli.render.progress import observing
    from himl_cli.services.montage.on_cluster import check_data
    from himl_cli.services.runs.logs import watching
    from himl_cli.services.submission.prepare import submit_job

    with open_session(where, talk, For.clusters) as session, naming_once_made() as made:
        check_data(asked, session.workspace.datastore)
        with observing(session.output) as notify:  # its bar is gone before anything else is printed
            made.append(submit_job(session.jobs, job, asked.cwd, notify))
        with watching(made[0].id):
            print_prepared(session.output, job.remarks, job.report)
        wait_or_leave(session, made[0], waits=waits, follows=False)


def _passed_on(picture: PictureOptions, how: HowOptions) -> Sequence[str]:
    """The options of the picture as the job's own command takes them, all written out: defaults may be others there."""
    values = {
        "width": picture.width,
        "level": "auto" if picture.level is None else picture.level,
        "layout": picture.layout.value,
        "image_format": ",".join(each.value for each in picture.formats),
        "backend": how.backend.value,
        "workers": how.workers,
    }
    return [
        *(f"--{name}={value}" for name, value in values.items() if value is not None),
        *(["--strict"] if how.strict else []),
    ]
