"""Attach to a running job: wait for its interactive services, and open ssh to it. The command
needs both, and nothing else does."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from himl_cli.core.engines import is_engine
from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import home_folder
from himl_cli.core.runs import JobServices, Run, RunService, RunStatus, queued_in
from himl_cli.services.runs.follow import OutageTolerance
from himl_cli.workspaces.base import CloudWorkspace, Workspace
from himl_cli.workspaces.engine_modules import engine_module
from himl_cli.workspaces.retry import Pauses

USER = "azureuser"  # in the vendor's images
WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"  # ssh options that take a value
WITH_SERVICES = "himl submit SCRIPT --cluster NAME --vscode, --jupyter or --ssh_key FILE"


def await_services(
    home: CloudWorkspace, run: Run, notify: Notify, *, node: int = 0, wanted: str = ""
) -> Sequence[RunService]:
    """Wait until each service of *run* on *node* responds or has failed. Return these services.

    *wanted* selects services by name or type. *notify* receives what the function waits for. Raises JobFailed if the
    job has ended or every service failed, NotFound if no service matches.
    """
    asked = home.job_services(run.id)
    if asked is not None and asked.types:
        _check_node(run, asked, node)
    pauses = Pauses(*home.poll_interval)
    outage, told = OutageTolerance(notify), ""
    while True:
        try:
            run = home.run(run.id)
            is_running = run.status is RunStatus.running
            found = {each.name: each for each in home.services(run.id, node)} if is_running else {}
            outage.succeeded()
        except ServiceFailed as err:
            outage.failed(err)
        else:
            if run.status.is_final:
                raise JobFailed(
                    f"Run '{run.id}' has ended ({run.status.value}), so its services have stopped.",
                    hint=f"See himl runs show {run.id}",
                )
            types = _chosen(run, asked, found, wanted, node, is_running=is_running)
            services = [found.get(name) or RunService(name, kind, node) for name, kind in types.items()]
            waiting = [each for each in services if not (each.is_ready or each.is_failed)]
            if services and not waiting:
                if all(each.is_failed for each in services):
                    raise _failure(run, services[0])
                return services
            names = ", ".join(f"{each.name} ({each.status.lower() or 'not created yet'})" for each in waiting)
            text = f"Waiting for {names}." if is_running else f"Run '{run.id}' is queued. Its services start with it."
            if text != told:
                notify(Notice(text))
            told = text
        time.sleep(pauses.next())


def cloud_of(workspace: Workspace, run: Run) -> CloudWorkspace:
    """Azure ML workspace of *run*. Raises BadUsage for a run of another workspace."""
    home = workspace.home_of(run.id)
    if isinstance(home, CloudWorkspace):
        return home
    name, handle = queued_in(run.tags) or ("", "")
    command = engine_module(name).shell(handle) if is_engine(name) else ""
    raise BadUsage(
        f"Run '{run.id}' is not an Azure ML job. Only these jobs have services to attach to.",
        hint=f"Open a shell on its node: {command}" if command else "",
    )


def _check_node(run: Run, asked: JobServices, node: int) -> None:
    """Raise BadUsage for a node that the job does not have, NotFound for a node without services."""
    if not 0 <= node < asked.nodes:
        has = f"{asked.nodes} nodes, counted from 0" if asked.nodes > 1 else "one node, 0"
        raise BadUsage(f"--node {node}: run '{run.id}' has {has}.")
    if node and not asked.everywhere:
        raise NotFound(
            f"Only the first node of run '{run.id}' has services.",
            hint="For services on every node, use himl submit --num_nodes, or 'nodes: all' in the job YAML.",
        )


def _chosen(
    run: Run, asked: JobServices | None, found: Mapping[str, RunService], wanted: str, node: int, *, is_running: bool
) -> dict[str, str]:
    """Names and types of the selected services, among those that were requested or exist."""
    types = {name: kind for name, kind in asked.types.items() if not node or name in asked.everywhere} if asked else {}
    types |= {each.name: each.type for each in found.values()}
    if not types and (asked or is_running):
        raise NotFound(f"Run '{run.id}' has no services.", hint=f"Submit a job with services: {WITH_SERVICES}")
    if not (wanted and types):
        return types
    meant = {name: kind for name, kind in types.items() if wanted.lower() in (name.lower(), kind.lower())}
    meant = meant or {name: kind for name, kind in types.items() if kind.lower().startswith(wanted.lower())}
    if not meant:
        hint = f"Submit a job with it: {WITH_SERVICES}" if wanted == "ssh" else ""
        raise NotFound(f"Run '{run.id}' has no service '{wanted}', only {', '.join(sorted(types))}.", hint=hint)
    return meant


def _failure(run: Run, service: RunService) -> JobFailed:
    because = service.error.rstrip(".") or f"its status is {service.status.lower()}"
    return JobFailed(
        f"Service '{service.name}' of run '{run.id}' failed: {because}.",
        hint="The image of the job needs openssh-server for SSH, and ipykernel and JupyterLab for other services. Show "
        f"the log: himl runs logs {run.id}",
    )


def ssh_command(
    home: CloudWorkspace, run: Run, service: RunService, proxy: Sequence[str], more: Sequence[str]
) -> list[str]:
    """Command line of the user's ssh through the command *proxy*.

    *more* contains ssh options, which precede the login, and then the remote command. ssh does not compare host keys,
    because each job's container has a new one, and TLS and the credentials vouch for its address. Raises NotFound if
    there is no ssh.
    """
    program = shutil.which("ssh")
    if program is None:
        raise NotFound(
            "There is no program 'ssh' on PATH.", hint="Install the OpenSSH client. On Windows, it is a feature."
        )
    asked = home.job_services(run.id)
    own = [word for path in _private_keys(asked.public_keys if asked else ()) for word in ("-i", str(path))]
    line = subprocess.list2cmdline(proxy) if sys.platform == "win32" else shlex.join(proxy)
    options = {
        "ProxyCommand": line.replace("%", "%%"),
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": os.devnull,
        # Otherwise, ssh prints at each start that it adds the key to the list of known hosts.
        "LogLevel": "ERROR",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    count = _count_options(more)
    return [program, *words, *own, *more[:count], "-l", USER, run.id, *more[count:]]


def _count_options(words: Sequence[str]) -> int:
    """Count the words that are ssh options and their values. The remote command follows them."""
    count = 0
    while count < len(words) and words[count].startswith("-"):
        takes_next = len(words[count]) == 2 and words[count][1] in WITH_VALUE
        count += 2 if takes_next else 1
    return count


def _private_keys(public_keys: Sequence[str]) -> list[Path]:
    """Private keys in the user's `.ssh` folder whose public keys the job accepts. ssh tries a few names only."""
    wanted = {line.split()[1] for line in public_keys if len(line.split()) > 1}
    home, found = home_folder(), []
    for path in sorted((home / ".ssh").glob("*.pub")) if home and wanted else ():
        try:
            words = path.read_text("utf-8", "replace").split()
        except OSError:
            continue
        private = path.with_suffix("")
        if len(words) > 1 and words[1] in wanted and private.exists():
            found.append(private)
    return found


def own_command(run: Run, node: int, options: Sequence[str]) -> list[str]:
    """himl as the ProxyCommand for *run*. *options* select the workspace."""
    if not sys.executable:
        raise HimlError("Python cannot find the path of its executable.")
    return [sys.executable, "-m", "himl_cli", "runs", "attach", run.id, "--stdio", "--node", str(node), *options]
