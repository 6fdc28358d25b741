"""`himl doctor`: check the installation, settings and access, an engine with a job, or Azure ML with live checks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    VARIABLE_PREFIX,
    AskingOptions,
    Bundle,
    OutputOptions,
    WorkspaceOptions,
    option,
    parse_list,
)
from himl_cli.commands.session import For, open_session
from himl_cli.core.errors import BadUsage, HimlError, Interrupted
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.core.workspaces import Check

app = group()


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


@command(app, "doctor")
def doctor(
    *,
    slurm: str | None = option("Also submit a short test job to --cluster slurm:NAME.", "NAME"),
    ssh: str | None = option("Check a machine that you reach by SSH instead.", "HOST", parse=non_blank),
    live_opts: LiveOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: AskingOptions,
) -> None:
    """Check the installation, and print a fix for each problem.

    himl checks Python, packages, settings, workspaces and the clock. On Azure, it checks the sign-in, the workspace and
    its default datastore. The exit code is 1 if a check fails. -q prints the names of failed checks.

    --ssh checks the connection to a machine, and himl there. It shows how long a first and a second call take.

    --live checks himl's assumptions about Azure ML instead. It runs short jobs, and asks before. It writes a report
    without names and secrets for the project. The same command continues an interrupted one.

    \b
      himl doctor
      himl doctor --config_file other/config.json --json
      himl doctor --live --cluster cpu --check connection --yes
    """
    if ssh is not None:
        if slurm is not None or live_opts.live or workspace_opts.names != (None, None):
            raise BadUsage("--ssh cannot be combined with other options.", hint=f"Run 'himl doctor --ssh {ssh}' alone.")
        return _check_there(ssh, output_opts)
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


def _check_there(host: str, output_opts: OutputOptions) -> None:
    from himl_cli.core.engines import SLURM
    from himl_cli.core.settings import section_settings
    from himl_cli.render.setup_views import print_checks
    from himl_cli.services.doctor import verdict
    from himl_cli.services.submission.engine_options import login_host
    from himl_cli.workspaces.remote.address import PREFIX, remote_address
    from himl_cli.workspaces.remote.checks import remote_checks

    here = Path.cwd()
    address = remote_address(f"{PREFIX}{host.removeprefix(PREFIX)}", here)
    assert address is not None
    needs_slurm = address.table in [login_host(name, here) for name in section_settings(here, SLURM)]
    problem = verdict(print_checks(output_opts.output(), remote_checks(address, needs_slurm=needs_slurm)))
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
    from himl_cli.services.submission.engine_options import SECTION, login_host, slurm_spec
    from himl_cli.workspaces.resolve import engine_checks

    here = Path.cwd()
    if slurm is None:
        for name in engines():
            yield from engine_checks(name, *names, None, start=here)
        return
    name = slurm.removeprefix(f"{SECTION}:")
    try:
        spec, host = slurm_spec(name, here), login_host(name, here)
    except HimlError as err:
        yield Check.failed(SECTION, str(err), err.hint)
        return
    if host:
        text = f"Jobs for slurm:{name} go through '{host}', which himl cannot check from here with a job."
        yield Check.note(SECTION, text, f"Check the connection: himl doctor --ssh {host}")
        return
    yield from engine_checks(SECTION, *names, spec, start=here)


def _settings(here: Path) -> list[str]:
    """The sources of settings that apply to the folder. Raises BadUsage for invalid settings."""
    from himl_cli.commands.scripts import check_variables, submit_settings
    from himl_cli.commands.submit import app as submit
    from himl_cli.commands.table import guests
    from himl_cli.core.engines import engines
    from himl_cli.core.settings import find_settings, section_settings
    from himl_cli.services.submission.engine_options import engine_spec
    from himl_cli.workspaces.remote.address import remote_facts
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
    remote_facts(here)
    names = sorted(name for name in os.environ if name.startswith(VARIABLE_PREFIX) and os.environ[name])
    return [*(f"'{file.path}'" for file in find_settings(here)), *names]
