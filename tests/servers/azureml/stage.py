"""The running double: Azurite, the application and the front, on loopback, in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.servers.azureml.accounts import Accounts
from tests.servers.azureml.app import application
from tests.servers.azureml.certificates import Certificates
from tests.servers.azureml.faults import Faults, Meanwhile
from tests.servers.azureml.front import LIMIT, Front
from tests.servers.azureml.log import RequestLog
from tests.servers.azureml.seeding import StagedWorkspace, new_workspace
from tests.servers.azureml.state import Azure, Workspace
from tests.servers.azurite import azurite, make_key

LONGEST_HOLD = 240.0  # seconds: a client that is never let go is a failure of its test, and not of all that follow


class Stage:
    """One double. `port` is the proxy's, `ca_file` holds the authority that clients have to trust. Made by `running_stage`."""

    def __init__(self, folder: Path, azurite_port: int, accounts: Accounts) -> None:
        self.azure = Azure()
        self.log = RequestLog()
        self.faults = Faults()
        self.port = 0
        self.ca_file = folder / "ca.pem"
        self.azurite = f"http://127.0.0.1:{azurite_port}"
        self._azurite_port = azurite_port
        self._accounts = accounts
        self._staged: list[StagedWorkspace] = []
        self._tls = Certificates()
        self._tls.write(self.ca_file)

    def workspace(self, name: str = "", **options: Any) -> StagedWorkspace:
        """A new workspace with storage of its own, in a subscription, group and tenant of its own unless *options* name them."""
        name = name or f"ws-{uuid.uuid4().hex[:8]}"
        staged = new_workspace(self, name, self._accounts.take(self.azurite), self._accounts.take(self.azurite), **options)
        self._staged.append(staged)
        return staged

    def environment(self) -> dict[str, str]:
        """The variables that send a client's requests here and let it trust the answers."""
        ca, proxy = str(self.ca_file), f"http://127.0.0.1:{self.port}"
        none_of_this_machine = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"), "")
        return {
            **none_of_this_machine,
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "REQUESTS_CA_BUNDLE": ca,
            "SSL_CERT_FILE": ca,
            "AZUREML_CURRENT_CLOUD": "AzureCloud",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }

    def clear(self) -> None:
        """No faults, no requests seen; workspaces stay."""
        self.faults.clear()
        self.log.clear()

    @contextmanager
    def holding(self, match: str, **which: Any) -> Iterator[None]:
        """Within this context the answers to such requests do not come; *which* of them is as `Faults.add` has it, all unless it says otherwise."""
        let_go = threading.Event()
        self.faults.add(Meanwhile(lambda: let_go.wait(LONGEST_HOLD)), match, **{"times": None, **which})
        try:
            yield
        finally:
            let_go.set()

    @contextmanager
    def own_workspaces(self) -> Iterator[None]:
        """Workspaces that are made within this context are gone after it."""
        before = len(self._staged)
        try:
            yield
        finally:
            while len(self._staged) > before:
                self._release(self._staged.pop().state)

    def end_jobs(self) -> None:
        """No job runs any more in any workspace."""
        for staged in self._staged:
            if staged.state.jobs is not None:
                staged.state.jobs.close()

    def _release(self, workspace: Workspace) -> None:
        if workspace.jobs is not None:
            workspace.jobs.close()
        self.azure.forget_workspace(workspace)
        for storage in (workspace.storage, workspace.second_storage):
            self._accounts.give_back(storage)

    async def serve(self, ready: threading.Event, stopping: asyncio.Event) -> None:
        """Run until *stopping*."""
        config = uvicorn.Config(application(self.azure, self.log, self.faults), port=0, log_config=None, access_log=False, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        app_port = server.servers[0].sockets[0].getsockname()[1]
        front = Front(self.azure, self.log, self.faults, self._tls, app_port, self._azurite_port)
        conversations: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(front.serve(reader, writer))
            conversations.add(task)
            task.add_done_callback(conversations.discard)

        listener = await asyncio.start_server(accept, "127.0.0.1", 0, limit=LIMIT)
        self.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await stopping.wait()
        listener.close()
        for task in list(conversations):
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await server.shutdown()


@contextmanager
def running_stage(folder: Path) -> Iterator[Stage]:
    """A stage as long as the context lasts; *folder* gets its certificate and Azurite's log. Raises AzuriteFailed."""
    accounts = Accounts(f"himl{uuid.uuid4().hex[:8]}", make_key(uuid.uuid4().hex))
    with ExitStack() as stack:
        stack.callback(accounts.close)
        port = stack.enter_context(azurite(accounts.names, accounts.key, folder))
        stage = Stage(folder, port, accounts)
        stack.enter_context(_in_thread(stage))
        stack.callback(stage.end_jobs)
        yield stage


@contextmanager
def _in_thread(stage: Stage) -> Iterator[None]:
    ready, failures = threading.Event(), list[BaseException]()
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    def run() -> None:
        try:
            loop.run_until_complete(stage.serve(ready, stopping))
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as e:
            failures.append(e)
            ready.set()
            raise
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="stage", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        if not failures:
            loop.call_soon_threadsafe(stopping.set)
        thread.join(timeout=60)
