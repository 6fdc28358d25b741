"""`himl init`, `himl workspace`, `himl doctor` and `himl gc`: set up, show, check and clean workspaces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    VARIABLE_PREFIX,
    Bundle,
    OutputOptions,
    WorkspaceOptions,
    option,
    parse_list,
    parse_since,
)
from himl_cli.commands.session import For, open_session, output_session
from himl_cli.core.errors import BadUsage, HimlError, Interrupted, WorkspaceNotFound
from himl_cli.core.text import non_blank
from himl_cli.render.output import Format

if TYPE_CHECKING:
    from himl_cli.core.workspaces import Check

init_app = group()
workspace_app = group("Show the workspaces that himl uses, and their sources.")
doctor_app = group()
gc_app = group()


@command(init_app, "init")
def init(
    *,
    source: str | None = option(
        "Settings to import (see above).", "FILE", names=("--from",), panel="Azure ML workspace"
    ),
    subscription_id: str | None = option("Subscription of the workspace.", "ID"),
    resource_group: str | None = option("Resource group of the workspace.", "NAME"),
    workspace_name: str | None = option("Name of the workspace.", "NAME"),
    local: bool = option("Create a local workspace (.himl) in this folder.", default=False, panel="Options"),
    slurm: bool = option("Write the Slurm partitions to himl.toml.", default=False),
    output_opts: OutputOptions,
) -> None:
    """Set up this folder for an Azure ML workspace or a local one.

    himl writes config.json for the workspace in the options below. HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and
    HIML_WORKSPACE_NAME set defaults. Without them, himl creates a local workspace. --from imports the portal's
    config.json or DeepSeismic's .env. It also imports InnerEye's settings.yml, with its private file. Settings go to
    himl.toml, and credentials to himl.private.toml. himl changes no existing file, but --slurm adds to himl.toml.

    \b
      himl init
      himl init --from InnerEye/settings.yml
      himl init --subscription_id ID --resource_group RG --workspace_name WS
    """
    from himl_cli.core.workspaces import PreparedFile, SetUp
    from himl_cli.render.setup_views import print_set_up
    from himl_cli.services.project_setup import set_up
    from himl_cli.workspaces import resolve

    named = {"subscription_id": subscription_id, "resource_group": resource_group, "workspace_name": workspace_name}
    ids, folder = {key: value for key, value in named.items() if value is not None}, Path.cwd()
    if slurm:
        if local or source is not None or ids:
            raise BadUsage("--slurm cannot be combined with other options.", hint="Run 'himl init --slurm' alone.")
        return _write_partitions(output_opts)
    done = set_up(
        folder,
        source,
        ids,
        local=local,
        default_ids=resolve.azure_ids_set(),
        read_config=resolve.azure_ids_in,
        config_text=resolve.azure_config_text,
    )
    if done is None:
        config = None if local else resolve.azure_config_at(folder)
        done = SetUp([PreparedFile(config, is_new=False) if config else PreparedFile(*resolve.make_local(folder))])
    print_set_up(output_opts.output(), done, folder)


def _write_partitions(output_opts: OutputOptions) -> None:
    from himl_cli.core.files import write_atomic
    from himl_cli.core.settings import SETTINGS_FILE
    from himl_cli.core.workspaces import PreparedFile, SetUp
    from himl_cli.render.setup_views import print_set_up
    from himl_cli.services.submission.engine_options import SECTION, settings_text
    from himl_cli.workspaces.resolve import engine_places

    path, found = Path.cwd() / SETTINGS_FILE, engine_places(SECTION)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if f"[{SECTION}." in before:
        raise BadUsage(f"'{path}' already has Slurm settings.", hint="Edit the file. To list partitions, run sinfo.")
    write_atomic(path, f"{before.rstrip()}\n\n{settings_text(found)}".lstrip())
    keys = [f"{SECTION}.{name}" for name, _, _ in found]
    print_set_up(output_opts.output(), SetUp([PreparedFile(path, is_new=True, keys=keys)]), Path.cwd())


@workspace_app.callback()
def workspace() -> None:
    """Keep `show` as a subcommand. Typer would merge a single one into the group."""


@command(workspace_app, "show")
def show(workspace_opts: WorkspaceOptions, output_opts: OutputOptions) -> None:
    """Show the workspaces that himl uses, and their sources.

    himl searches all of them for runs. It reads and writes data in the first one. If one does not respond, himl shows
    its settings and exits with an error code. -q prints the names only, and sends no requests.

    \b
      himl workspace show
      himl workspace show --json
    """
    from himl_cli.render.setup_views import workspace_view
    from himl_cli.services.doctor import facts_of
    from himl_cli.workspaces.resolve import open_each, search_remarks

    output = output_opts.output()
    found = open_each(*workspace_opts.names, start=Path.cwd())
    for remark in search_remarks(*workspace_opts.names, start=Path.cwd()):
        output.notice(remark)
    answers = facts_of(found, ask=output.format is not Format.quiet)
    facts = [each for each, _ in answers]
    output.result(
        facts,
        human=lambda: "\n\n".join("\n".join(workspace_view(each)) for each in facts),
        quiet=[each.label for each in facts],
    )
    errors = [(each.label, error) for each, error in answers if error is not None]
    for label, error in errors[1:]:
        output.notice(f"warning: {label}: {error}")
    if errors:
        raise errors[0][1]


class LiveOptions(Bundle):
    live: bool = option("Check himl's assumptions with short jobs on Azure ML.", default=False, panel="Live checks")
    cluster: str | None = option("Cluster of the jobs.", "NAME", parse=non_blank)
    check: Sequence[str] = option("Only these checks, separated by commas.", "NAME", many=True, parse=parse_list)
    environment: str | None = option("Registered environment of the jobs.", "NAME", parse=non_blank)
    keep: bool = option("Keep the jobs, for further checks.", default=False)

    def validate(self) -> None:
        given = {"cluster": self.cluster, "check": self.check, "environment": self.environment, "keep": self.keep}
        unused = next((name for name, value in given.items() if value and not self.live), None)
        if unused:
            raise BadUsage(f"--{unused} has no effect without --live.", hint="Add --live, or omit it.")
        if self.live and not self.cluster:
            raise BadUsage("--live needs a cluster for its jobs.", hint="Add --cluster NAME.")


@command(doctor_app, "doctor")
def doctor(
    *,
    slurm: str | None = option("Also submit a short test job to --cluster slurm:NAME.", "NAME"),
    live_opts: LiveOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Check the installation, and print a fix for each problem.

    himl checks Python, packages, settings, workspaces and the clock. On Azure, it checks the sign-in, the workspace and
    its default datastore. The exit code is 1 if a check fails. -q prints the names of failed checks.

    --live checks himl's assumptions about Azure ML instead. It runs short jobs, and asks before. It writes a report
    without names and secrets for the project. The same command continues an interrupted one.

    \b
      himl doctor
      himl doctor --config_file other/config.json --json
      himl doctor --live --cluster cpu --check connection --yes
    """
    if live_opts.live:
        if slurm is not None:
            raise BadUsage("--slurm and --live cannot be combined.", hint="Use only one of them.")
        return _check_live(live_opts, workspace_opts, output_opts)
    from himl_cli.render.setup_views import print_checks
    from himl_cli.services.doctor import checkup, verdict
    from himl_cli.workspaces.resolve import open_each, search_remarks

    names, here = workspace_opts.names, Path.cwd()
    find, remarks = partial(open_each, *names, start=here), partial(search_remarks, *names, start=here)
    of_engines = partial(_engine_checks, names, slurm)
    checks = print_checks(output_opts.output(), chain(checkup(find, remarks, partial(_settings, here)), of_engines()))
    problem = verdict(checks)
    if problem is not None:
        raise problem


def _check_live(opts: LiveOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions) -> None:
    from himl_cli.render.output import Declined
    from himl_cli.render.setup_views import print_checks
    from himl_cli.services.live_checks import plan

    with open_session(workspace_opts, output_opts, For.data) as session:
        output = session.output
        planned = plan.prepare(session.workspace, str(opts.cluster), opts.check, session.cwd)
        for line in plan.announcement(planned, keeps=opts.keep):
            output.notice(line)
        if not output.confirm(f"Run {len(planned.checks)} checks in {session.workspace.label}?"):
            raise Declined("himl submitted nothing.")
        findings = plan.perform(planned, opts.environment, session.notify, keeps=opts.keep)
        try:
            print_checks(output, findings)
        except KeyboardInterrupt as err:
            hint = f"To continue: himl doctor --live --cluster {opts.cluster}"
            raise Interrupted("Interrupted. Submitted jobs continue.", hint=hint) from err
        for line in plan.conclusion(planned.report):
            output.notice(line)
        problem = plan.verdict(planned)
        if problem is not None:
            raise problem


def _engine_checks(names: tuple[str | None, str | None], slurm: str | None) -> Iterator[Check]:
    """The checks of all engines, or with the NAME of `--slurm` those of Slurm with a job."""
    from himl_cli.core.engines import engines
    from himl_cli.core.workspaces import Check
    from himl_cli.services.submission.engine_options import SECTION, slurm_spec
    from himl_cli.workspaces.resolve import engine_checks

    here = Path.cwd()
    if slurm is None:
        for name in engines():
            yield from engine_checks(name, *names, None, start=here)
        return
    try:
        spec = slurm_spec(slurm.removeprefix(f"{SECTION}:"), here)
    except HimlError as err:
        yield Check.failed(SECTION, str(err), err.hint)
    else:
        yield from engine_checks(SECTION, *names, spec, start=here)


def _settings(here: Path) -> list[str]:
    """The sources of settings that apply to the folder. Raises BadUsage for invalid settings."""
    from himl_cli.commands.scripts import check_variables, submit_settings
    from himl_cli.commands.submit import app as submit
    from himl_cli.commands.table import guests
    from himl_cli.core.engines import engines
    from himl_cli.core.settings import find_settings, section_settings
    from himl_cli.services.submission.engine_options import engine_spec
    from himl_cli.workspaces.resolve import cloud_setting

    command: Any = typer.main.get_command(submit)
    check_variables(command, os.environ)
    submit_settings(command, here)
    cloud_setting(here)
    for check_settings in guests("check_settings"):
        check_settings(here)
    for engine in engines():
        for name in section_settings(here, engine):
            engine_spec(engine, name, here)
    names = sorted(name for name in os.environ if name.startswith(VARIABLE_PREFIX) and os.environ[name])
    return [*(f"'{file.path}'" for file in find_settings(here)), *names]


@command(gc_app, "gc")
def gc(
    *,
    older_than: datetime | None = option(
        "Also artifacts of runs that ended before 30d, or a date.", "TIME", kind=str | None, parse=parse_since
    ),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Delete files of the local workspace that no run needs.

    himl counts the files, and deletes them with --yes. They are code of deleted runs, and copies that killed jobs left.
    With --older_than, they include artifacts. Records, metrics, logs and code of runs stay. Files of runs in progress
    stay.

    \b
      himl gc
      himl gc --yes
      himl gc --older_than 30d
    """
    from himl_cli.render.setup_views import print_garbage
    from himl_cli.workspaces.base import FolderWorkspace
    from himl_cli.workspaces.resolve import open_each

    with output_session(output_opts) as (output, _):
        found = [each for each in open_each(*workspace_opts.names, start=Path.cwd()) if each.facts.kind == "local"]
        workspace = found[0].open() if found else None
        if not isinstance(workspace, FolderWorkspace):
            raise WorkspaceNotFound("There is no local workspace here.", hint="See where himl looks: himl doctor")
        print_garbage(output, workspace.garbage(older_than, delete=output.yes), workspace.label)
        workspace.close()
