"""`himl init`, `himl workspace` and `himl gc`: set up, show and clean workspaces. The commands
share little code, as each calls one service."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from pathlib import Path

from himl_cli.commands.groups import command, group, subcommands
from himl_cli.commands.options import (
    AskingOptions,
    OutputOptions,
    WorkspaceOptions,
    option,
    parse_since,
)
from himl_cli.commands.session import output_session
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.events import Notice
from himl_cli.core.text import non_blank
from himl_cli.render.output import Format

init_app = group()
workspace_app = subcommands("Show the workspaces that himl uses, and their sources.")
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
    ssh: str | None = option("Install himl on a machine that you reach by SSH.", "HOST", parse=non_blank),
    python: str | None = option("Python there, for --ssh (default: one that himl finds).", "PATH", parse=non_blank),
    output_opts: OutputOptions,
) -> None:
    """Set up this folder for an Azure ML workspace or a local one.

    himl writes config.json for the workspace in the options below. HIML_SUBSCRIPTION_ID, HIML_RESOURCE_GROUP and
    HIML_WORKSPACE_NAME set defaults. Without them, himl creates a local workspace. --from imports the portal's
    config.json or DeepSeismic's .env. It also imports InnerEye's settings.yml, with its private file. Settings go to
    himl.toml, and credentials to himl.private.toml. --slurm and --ssh add to himl.toml. Other existing files stay.

    --ssh makes a virtual environment below ~/.cache/himl there. It installs the himl of this machine in it. Without
    internet there, pip downloads the packages here. The same command updates himl there.

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
        if local or source is not None or ids or ssh is not None or python is not None:
            raise BadUsage("--slurm cannot be combined with other options.", hint="Run 'himl init --slurm' alone.")
        return _write_partitions(output_opts)
    if ssh is not None:
        if local or source is not None or ids:
            raise BadUsage("--ssh cannot be combined with other options.", hint=f"Run 'himl init --ssh {ssh}' alone.")
        return _install_there(ssh, python, output_opts)
    if python is not None:
        raise BadUsage("--python has no effect without --ssh.", hint="Add --ssh HOST, or omit it.")
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


def _settings_to_extend(here: Path, section: str) -> tuple[Path, str]:
    """The project's himl.toml, or a new one in *here*, and its text. Raises BadUsage if the project has its settings in
    pyproject.toml, which a new file would override."""
    from himl_cli.core.settings import PYPROJECT, SETTINGS_FILE, find_settings

    found = next((each for each in find_settings(here) if each.path.name in (SETTINGS_FILE, PYPROJECT)), None)
    if found is not None and found.path.name == PYPROJECT:
        hint = f"Add to that file: [tool.himl.{section}]"
        raise BadUsage(f"'{found.path}' has settings, and a new '{SETTINGS_FILE}' would override it.", hint=hint)
    return (found.path, found.text) if found is not None else (here / SETTINGS_FILE, "")


def _write_partitions(output_opts: OutputOptions) -> None:
    from himl_cli.core.files import write_atomic
    from himl_cli.core.workspaces import PreparedFile, SetUp
    from himl_cli.render.setup_views import print_set_up
    from himl_cli.services.submission.engine_options import SECTION, settings_text
    from himl_cli.workspaces.resolve import engine_places

    (path, before), found = _settings_to_extend(Path.cwd(), f"{SECTION}.NAME"), engine_places(SECTION)
    if f"[{SECTION}." in before:
        raise BadUsage(f"'{path}' already has Slurm settings.", hint="Edit the file. To list partitions, run sinfo.")
    write_atomic(path, f"{before.rstrip()}\n\n{settings_text(found)}".lstrip())
    keys = [f"{SECTION}.{name}" for name, _, _ in found]
    print_set_up(output_opts.output(), SetUp([PreparedFile(path, is_new=True, keys=keys)]), Path.cwd())


def _install_there(host: str, python: str | None, output_opts: OutputOptions) -> None:
    from himl_cli.core.files import write_atomic
    from himl_cli.core.settings import section_settings
    from himl_cli.core.workspaces import PreparedFile, SetUp
    from himl_cli.render.setup_views import print_set_up
    from himl_cli.workspaces.remote.address import PREFIX, REMOTE, remote_address, settings_text
    from himl_cli.workspaces.remote.connection import RemoteChannel
    from himl_cli.workspaces.remote.install import install

    here = Path.cwd()
    address = remote_address(f"{PREFIX}{host.removeprefix(PREFIX)}", here)
    assert address is not None
    name = address.table
    setting = section_settings(here, REMOTE).get(name)
    path, before = (setting.file, "") if setting is not None else _settings_to_extend(here, f"{REMOTE}.{name}")
    with output_session(output_opts) as (output, notify):
        done = install(address, python, notify)
        with closing(RemoteChannel(address)):
            pass
        state = "Installed himl" if done.is_new else "himl is up to date"
        notify(Notice(f"{state} at '{address.host}', with Python {done.version}."))
        if setting is None:
            write_atomic(path, f"{before.rstrip()}\n\n{settings_text(name)}".lstrip())
        file = PreparedFile(path, setting is None, [f"{REMOTE}.{name}"])
        print_set_up(output, SetUp([file]), here, f"himl doctor --ssh {name}")


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


@command(gc_app, "gc")
def gc(
    *,
    older_than: datetime | None = option(
        "Also artifacts of runs that ended longer ago than 30d, or before a date. It applies to downloads, too.",
        "TIME",
        kind=str | None,
        parse=parse_since,
    ),
    workspace_opts: WorkspaceOptions,
    output_opts: AskingOptions,
) -> None:
    """Delete files of the local workspace that no run needs, and unused downloads.

    Without --yes, himl only counts the files. They are code of deleted runs, and copies that killed jobs left. They
    also are downloads in himl's cache that nothing used for 30 days. --older_than adds the artifacts of older runs.
    Records, metrics, logs and code of runs stay, and all files of runs in progress.

    \b
      himl gc
      himl gc --yes
      himl gc --older_than 30d
    """
    from himl_cli.render.setup_views import print_garbage
    from himl_cli.services.transfer.unused import unused_downloads
    from himl_cli.workspaces.base import FolderWorkspace
    from himl_cli.workspaces.resolve import open_each

    with output_session(output_opts) as (output, _):
        found = [each for each in open_each(*workspace_opts.names, start=Path.cwd()) if each.facts.kind == "local"]
        workspace = found[0].open() if found else None
        if not isinstance(workspace, FolderWorkspace):
            raise WorkspaceNotFound("There is no local workspace here.", hint="See where himl looks: himl doctor")
        garbage = workspace.garbage(older_than, delete=output.yes)
        print_garbage(output, [*garbage, unused_downloads(older_than, delete=output.yes)])
        workspace.close()
