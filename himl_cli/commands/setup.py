"""`himl init`, `himl workspace` and `himl doctor`: what a project needs to find its workspace, shown and checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import VARIABLE_PREFIX, OutputOptions, WorkspaceOptions, option
from himl_cli.core.errors import HimlError
from himl_cli.render.output import Format

if TYPE_CHECKING:
    from himl_cli.core.workspaces import Check

init_app = group()
workspace_app = group("Show which workspace is meant, and where that was read.")
doctor_app = group()


@command(init_app, "init")
def init(
    *,
    source: str | None = option(
        "Settings to take over (see above).", "FILE", names=("--from",), panel="Azure ML workspace"
    ),
    subscription_id: str | None = option("Its subscription.", "ID"),
    resource_group: str | None = option("Its resource group.", "NAME"),
    workspace_name: str | None = option("Its name.", "NAME"),
    local: bool = option("Make a local workspace, .himl, in this folder.", default=False, panel="Options"),
    slurm: bool = option("Write what Slurm offers here to himl.toml.", default=False),
    output_opts: OutputOptions,
) -> None:
    """Set up this folder for an Azure ML workspace, or with a local one.

    Writes config.json for the workspace named by the options below, or by HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and
    HIML_WORKSPACE_NAME. --from takes over a config.json of the portal, InnerEye's settings.yml (with the private
    file beside it) or DeepSeismic's .env: settings go to himl.toml, who signs in to himl.private.toml. Where nothing
    names a workspace, a local one is made. No file that exists is changed.

    \b
      himl init
      himl init --from InnerEye/settings.yml
      himl init --subscription_id ID --resource_group RG --workspace_name WS
    """
    from himl_cli.core.workspaces import PreparedFile, SetUp
    from himl_cli.render.results import print_set_up
    from himl_cli.services.project_setup import set_up
    from himl_cli.workspaces import resolve

    if slurm:
        return _write_partitions(output_opts)
    named = {"subscription_id": subscription_id, "resource_group": resource_group, "workspace_name": workspace_name}
    ids, folder = {key: value for key, value in named.items() if value is not None}, Path.cwd()
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
    from himl_cli.core.errors import BadUsage
    from himl_cli.core.files import write_atomic
    from himl_cli.core.settings import FILE
    from himl_cli.core.workspaces import PreparedFile, SetUp
    from himl_cli.render.results import print_set_up
    from himl_cli.services.submission.slurm import SECTION, settings_text
    from himl_cli.workspaces.resolve import slurm_partitions

    path, found = Path.cwd() / FILE, slurm_partitions()
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if f"[{SECTION}." in before:
        raise BadUsage(f"'{path}' has tables of Slurm already.", hint="Change them there; sinfo lists the partitions.")
    write_atomic(path, f"{before.rstrip()}\n\n{settings_text(found)}".lstrip())
    keys = [f"{SECTION}.{name}" for name, _, _ in found]
    print_set_up(output_opts.output(), SetUp([PreparedFile(path, not before, keys)]), Path.cwd())


@workspace_app.callback()
def workspace() -> None:
    """Keeps `show` a command of its own: Typer would fold a single one into the group."""


@command(workspace_app, "show")
def show(workspace_opts: WorkspaceOptions, output_opts: OutputOptions) -> None:
    """Show which workspaces are meant, and where that was read.

    Runs are looked for in all of them; data goes to the first, and comes from it. If one does not answer, what its
    configuration says is shown, and the exit code says why. -q prints the names only, without asking any workspace.

    \b
      himl workspace show
      himl workspace show --json
    """
    from himl_cli.render.results import workspace_view
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


@command(doctor_app, "doctor")
def doctor(
    *,
    slurm: str | None = option("Send a job of seconds to this NAME of --cluster slurm:NAME as well.", "NAME"),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Check what himl needs, a line each with what to do about it.

    Python and packages; settings; which workspaces are meant, and why; signing in to Azure, the workspace, its
    default datastore, the clock. Exit code 1 where something is not in order. -q prints the names of what is not.

    \b
      himl doctor
      himl doctor --config_file other/config.json --json
    """
    from himl_cli.render.results import print_checks
    from himl_cli.services.doctor import checkup, verdict
    from himl_cli.workspaces.resolve import open_each, search_remarks

    names, here = workspace_opts.names, Path.cwd()
    find, remarks = partial(open_each, *names, start=here), partial(search_remarks, *names, start=here)
    of_slurm = partial(_slurm_checks, names, slurm)
    checks = print_checks(output_opts.output(), chain(checkup(find, remarks, partial(_settings, here)), of_slurm()))
    problem = verdict(checks)
    if problem is not None:
        raise problem


def _slurm_checks(names: tuple[str | None, str | None], slurm: str | None) -> Iterator[Check]:
    from himl_cli.core.workspaces import Check
    from himl_cli.services.submission.request import SLURM
    from himl_cli.services.submission.slurm import slurm_spec
    from himl_cli.workspaces.resolve import slurm_checks

    here = Path.cwd()
    if slurm is None:
        if shutil.which("sbatch"):
            yield from slurm_checks(*names, None, start=here)
        return
    try:
        spec = slurm_spec(slurm.removeprefix(SLURM), here)
    except HimlError as err:
        yield Check.failed("slurm", str(err), err.hint)
    else:
        yield from slurm_checks(*names, spec, start=here)


def _settings(here: Path) -> list[str]:
    """Where settings stand that count here. Raises BadUsage for those that a command could not use."""
    from himl_cli.commands.scripts import check_variables, submit_settings
    from himl_cli.commands.submit import app as submit
    from himl_cli.core.settings import find_settings, section_settings
    from himl_cli.services.montage.stored import cache_limit
    from himl_cli.services.submission.slurm import SECTION, slurm_spec
    from himl_cli.workspaces.resolve import cloud_setting

    command: Any = typer.main.get_command(submit)
    check_variables(command, os.environ)
    submit_settings(command, here)
    cloud_setting(here)
    cache_limit(here)
    for name in section_settings(here, SECTION):
        slurm_spec(name, here)
    names = sorted(name for name in os.environ if name.startswith(VARIABLE_PREFIX) and os.environ[name])
    return [*(f"'{file.path}'" for file in find_settings(here)), *names]
