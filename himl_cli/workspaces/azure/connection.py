"""The connection to one workspace: its record, its services, the tokens that open them, and what himl remembers of all
that between calls."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.files import atomic_replacement
from himl_cli.core.processes import register_after_fork
from himl_cli.core.redaction import parts_of
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.config import JOB_SOURCE, ApiVersion, AzureSettings, WorkspaceAddress
from himl_cli.workspaces.azure.credentials import RUN_TOKEN, Chain, JobIdentity, Token, user_sources
from himl_cli.workspaces.azure.http import HttpClient
from himl_cli.workspaces.retry import CONTROL_PLANE, RetryPolicy

log = logging.getLogger(__name__)

# Part of the folder's name: another layout gets another number, and old files are then never read.
VERSION = "1"

# No value lives longer, so that files older than this can be removed unread.
LONGEST_SECONDS = 2 * 24 * 3600.0


class DiskCache:
    """What himl remembers between calls, by kind and key: tokens, workspace records, datastore secrets. Never raises
    for what lies, or cannot lie, on the disk.

    One small JSON file a value, with an expiry, in the user's cache folder. The folder is the user's alone (0700) and
    so is each file (0600) from the moment it exists; on Windows the access list of the user's profile does the same. A
    folder that belongs to somebody else, a link in its place, a file that cannot be read or understood count as empty,
    and nothing is then kept. Files are replaced whole, so that any number of processes may read and write at once; the
    last one to write wins.
    """

    def __init__(self, folder: Path | None) -> None:
        """Keep values below *folder*; nowhere with None."""
        self._folder = folder
        self._swept: set[Path] = set()

    @classmethod
    def of_user(cls) -> DiskCache:
        """In the user's cache folder, or nowhere where HIML_NO_CACHE is set (to anything but 0)."""
        if os.environ.get("HIML_NO_CACHE", "") not in ("", "0"):
            return cls(None)
        import platformdirs

        try:
            folder = platformdirs.user_cache_path("himl", appauthor=False) / "azure"
        except RuntimeError:  # a user without a home folder; older platformdirs give a relative one
            return cls(None)
        return cls(folder if folder.is_absolute() else None)

    def get(self, kind: str, key: str) -> Any | None:
        """The value, or None where none is kept or its time is over."""
        path = self._path(kind, key)
        if path is None or not _is_private(path.parent):
            return None
        try:
            held = read_json(path.read_bytes())
            value, expires, its_key = held["value"], float(held["expires"]), held["key"]
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None
        return value if its_key == key and time.time() < expires else None

    def put(self, kind: str, key: str, value: Any, *, seconds: float = LONGEST_SECONDS) -> None:
        """Keep a JSON *value* for so many seconds, two days at most."""
        path = self._path(kind, key)
        if path is None or seconds <= 0:
            return
        folder, now = path.parent, time.time()
        content = json.dumps({"key": key, "expires": now + min(seconds, LONGEST_SECONDS), "value": value})
        try:
            for level in (folder.parent.parent, folder.parent, folder):
                level.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(folder):
                raise PermissionError(f"'{folder}' is open to others")
            with atomic_replacement(path, is_private=True) as temporary:
                Path(temporary).write_text(content, encoding="ascii")
            if folder not in self._swept:  # once is enough, with thousands of values
                self._swept.add(folder)
                for old in folder.iterdir():  # values of other accounts, parts of processes that were killed
                    with suppress(OSError):  # another process was faster, or has it open
                        if old.stat().st_mtime < now - LONGEST_SECONDS:
                            old.unlink()
        except OSError as err:
            log.debug("nothing is kept in %s: %s", folder, err)

    def forget(self, kind: str, key: str) -> None:
        path = self._path(kind, key)
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as err:
            log.debug("cannot remove %s: %s", path, err)

    def _path(self, kind: str, key: str) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"v{VERSION}" / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _is_private(folder: Path) -> bool:
    """Whether *folder* and the two above it are real folders of this user that nobody else can enter; modes are
    mended."""
    try:
        for level in (folder, folder.parent, folder.parent.parent):
            found = level.lstat()
            if not stat.S_ISDIR(found.st_mode):
                return False
            if sys.platform != "win32":
                if found.st_uid != os.geteuid():
                    return False
                if stat.S_IMODE(found.st_mode) & 0o077:
                    level.chmod(0o700)
    except OSError:
        return False
    return True


TOKENS = "tokens"  # in the cache


class Tokens:
    """One per connection. Threads share it: a token is fetched once, and the others wait for it."""

    def __init__(self, issuer: Chain, kept: DiskCache) -> None:
        self._issuer, self._kept = issuer, kept
        self._held: dict[str, Token] = {}
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    def get(self, scope: str) -> str:
        """A token for *scope*, good for five minutes at least where the service gives such.

        Raises NotAllowed naming the credentials that were tried, ServiceFailed where the place of sign-in is out of
        reach.
        """
        return self._token(scope).text

    def renew(self, scope: str, rejected: str, claims: str = "") -> str:
        """After a 401: get another token than the *rejected* one (unless another thread just did), with the *claims*
        that the service asked for.

        The rejected one is forgotten; but where claims are wanted that nobody can give, it stays: it may be good for
        reading.
        """
        with self._lock:
            held = self._held.get(scope)
            if held is not None and held.text != rejected:
                return held.text
            log.debug("a token for %s was rejected; getting another", scope)
            if not claims:
                self._held.pop(scope, None)
                self._kept.forget(TOKENS, self._key(scope))
            return self._fetched(scope, anew=True, claims=claims).text

    def credential_for(self, scope: str) -> str:
        """What messages call the credential whose token is in use."""
        held = self._held.get(scope)
        return held.credential if held is not None else "this sign-in"

    def sign_in(self, scope: str) -> Token:
        """A token for *scope* got anew, past what is kept (unless that asked a person). Raises as `get` does."""
        with self._lock:
            held = self._held.get(scope) or self._held_before(scope)
            if held is not None and self._issuer.is_for_once(held.credential):
                return self._token(scope)
            return self._fetched(scope, anew=scope in self._held)

    def _token(self, scope: str) -> Token:
        with self._lock:
            held = self._held.get(scope)
            if held is None or time.time() >= held.renew_at:
                held = self._held_before(scope) or held  # another process may have signed in meanwhile
            if held is not None and time.time() < held.renew_at:
                self._held[scope] = held
                return held
            try:
                return self._fetched(scope, anew=held is not None)
            except HimlError as err:
                if held is None or not held.lasts():
                    raise
                log.warning(
                    "the sign-in could not be renewed (%s); it is good for %d s more", err, held.expires - time.time()
                )
                return held

    def _fetched(self, scope: str, *, anew: bool, claims: str = "") -> Token:
        token = self._issuer.fetch(scope, anew=anew, claims=claims)
        log.debug("signed in by %s for %s", token.credential, scope)
        self._held[scope] = token
        value = {"token": token.text, "expires": token.expires, "credential": token.credential}
        self._kept.put(TOKENS, self._key(scope), value, seconds=token.renew_at - time.time())
        return token

    def _held_before(self, scope: str) -> Token | None:
        value = self._kept.get(TOKENS, self._key(scope)) or {}
        try:
            return Token(str(value["token"]), float(value["expires"]), str(value["credential"]))
        except (KeyError, OverflowError, TypeError, ValueError):
            return None

    def _key(self, scope: str) -> str:
        return f"{self._issuer.identity} {scope}"


@dataclass(frozen=True)
class WorkspaceRecord:
    """Of resource manager's answer for the workspace, what himl uses. In a job without an identity for that, what the
    job is told.

    `data_plane` is where run history and its kin answer, `https://REGION.api.azureml.ms` or a private address, without
    a slash at the end; `storage_account` is the ARM id of the workspace's own account, "" unknown.
    """

    workspace_id: str
    location: str
    data_plane: str
    tenant_id: str
    storage_account: str
    discovery_url: str

    @classmethod
    def from_json(cls, value: Any) -> WorkspaceRecord | None:
        try:
            return cls(**{name: str(value[name]) for name in cls.__dataclass_fields__})
        except (KeyError, TypeError):
            return None

    @classmethod
    def from_arm(cls, answer: Any, address: WorkspaceAddress) -> WorkspaceRecord:
        """From `GET {workspace}`. `data_plane` is empty where the answer does not tell it: discovery has to be asked.

        Raises ServiceFailed for an answer that is no workspace.
        """
        properties = answer.get("properties") if isinstance(answer, Mapping) else None
        if not isinstance(properties, Mapping):
            raise ServiceFailed(
                f"The answer for {address.label} holds no workspace.", hint="A proxy of this network may be in between."
            )
        names = ("workspaceId", "tenantId", "storageAccount", "discoveryUrl", "mlFlowTrackingUri")
        workspace_id, tenant_id, storage, discovery, tracking = (str(properties.get(name) or "") for name in names)
        host = parts_of(tracking).netloc
        # behind a private link, say, discovery may lead elsewhere; the vendor's clients go by it
        is_told = host and (not discovery or parts_of(discovery).netloc == host)
        data_plane = f"https://{host}" if is_told else ""
        return cls(workspace_id, str(answer.get("location") or ""), data_plane, tenant_id, storage, discovery)

    @classmethod
    def from_job(cls) -> WorkspaceRecord | None:
        """From the environment of an Azure ML job; None where that does not tell the services' address."""
        env = os.environ
        told = env.get("AZUREML_SERVICE_ENDPOINT") or env.get("AZUREML_RUN_HISTORY_SERVICE_ENDPOINT") or ""
        data_plane = told.rstrip("/")
        if not data_plane.startswith("https://"):
            return None
        labels = (parts_of(data_plane).hostname or "").split(".")  # REGION.api…, or GUID.workspace.REGION.api…
        return cls(
            workspace_id=env.get("AZUREML_WORKSPACE_ID", ""),
            location=labels[labels.index("api") - 1] if "api" in labels[1:] else labels[0],
            data_plane=data_plane,
            tenant_id=Token(env.get("AZUREML_RUN_TOKEN", ""), 0, "").tenant_id,
            storage_account="",
            discovery_url=env.get("AZUREML_DISCOVERY_SERVICE_ENDPOINT", ""),
        )


RECORDS, RECORD_SECONDS = "workspaces", 24 * 3600.0
OPEN_PAGE = "/metadata/endpoints"  # of resource manager; needs no token
SERVICES = {
    "artifact": "artifact/v2.0{}",
    "data": "data/v1.0{}",
    "datastore": "datastore/v1.0{}",  # takes a job's run token
    "environment": "environment/v1.0{}",  # in the form of the vendor's older SDK
    "history": "history/v1.0{}",
    "index": "index/v1.0{}",  # knows the runs of the whole workspace
    "metric": "metric/v2.0{}",
    "mlflow": "mlflow/v2.0{}/api/2.0/mlflow",
    "modelregistry": "modelregistry/v1.0{}",
}


class Connection(AbstractContextManager["Connection"]):
    """Made without a request; the first call that needs one signs in."""

    def __init__(
        self, address: WorkspaceAddress, issuer: Chain, kept: DiskCache, kept_tokens: DiskCache, policy: RetryPolicy
    ) -> None:
        self.address, self.kept, self._issuer = address, kept, issuer
        self.tokens = Tokens(issuer, kept_tokens)
        self.rest = HttpClient(self.tokens, address, self._scope_of, self.forget_record, policy)
        self._record: WorkspaceRecord | None = None
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    @classmethod
    def open(
        cls, address: WorkspaceAddress, *, settings: AzureSettings, policy: RetryPolicy = CONTROL_PLANE
    ) -> Connection:
        """Connect to *address*; *policy* says when requests are tried again.

        Raises NotAllowed where a service principal is only partly set.
        """
        kept, cloud = DiskCache.of_user(), address.cloud
        if address.source == JOB_SOURCE:
            job = JobIdentity(settings, cloud, lambda old: connection._new_run_token(old))
            connection = cls(address, job, kept, DiskCache(None), policy)
            return connection
        chain = Chain(user_sources(settings, cloud, address.subscription_id), authority=cloud.authority)
        return cls(address, chain, kept, kept, policy)

    @property
    def in_job(self) -> bool:
        return self.address.source == JOB_SOURCE

    @property
    def has_run_token(self) -> bool:
        """Whether the workspace's services are asked with a job's run token."""
        return self.in_job and bool(os.environ.get("AZUREML_RUN_TOKEN"))

    def record(self, *, fresh: bool = False) -> WorkspaceRecord:
        """What himl has to know of the workspace: from memory, from what was kept for a day, else from the service.

        *fresh* asks the service in any case. In a job without an identity the environment tells it. Raises as
        `HttpClient` does.
        """
        with self._lock:
            found = None if fresh else self._record or self._known_record()
            self._record = found = found or self._requested_record()
            return found

    def forget_record(self) -> None:
        """Drop what was kept of the workspace: it proved wrong (the name of its services is not known any more,
        say)."""
        self._record = None
        self.kept.forget(RECORDS, self.key(""))

    def arm(self, path: str = "") -> str:
        """The URL in resource manager of the workspace, or of *path* below it; the caller gives `api-version` as a
        parameter."""
        return f"{self.address.cloud.resource_manager}{quote(self.address.path)}{path}"

    def service(self, name: str, path: str = "") -> str:
        """A URL of a service of the workspace, called as in SERVICES: *path* below the workspace."""
        return f"{self.record().data_plane}/{SERVICES[name].format(quote(self.address.path))}{path}"

    def sign_in(self) -> Token:
        """Sign in. Raises NotAllowed, or ServiceFailed where the place of sign-in is out of reach."""
        return self.tokens.sign_in(self._data_plane_scope)

    def clock_skew(self) -> float | None:
        """Seconds that this machine's clock is ahead of Azure's (negative: behind), to about a second; None unknown.

        Asks resource manager for a page that needs no sign-in. Raises ServiceFailed where it cannot be reached.
        """
        url = f"{self.address.cloud.resource_manager}{OPEN_PAGE}"
        return responses.clock_skew(self.rest.send("GET", url, params={"api-version": ApiVersion.ENDPOINTS}).headers)

    def close(self) -> None:
        self.rest.close()
        self._issuer.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def key(self, what: str) -> str:
        """The key under which *what* is kept that only this account may be told of this workspace in this cloud."""
        return f"{self._issuer.identity} {self.address.cloud.name} {self.address.path.lower()} {what}"

    @property
    def _data_plane_scope(self) -> str:
        return RUN_TOKEN if self.has_run_token else self.address.cloud.management_scope

    def _known_record(self) -> WorkspaceRecord | None:
        kept = WorkspaceRecord.from_json(self.kept.get(RECORDS, self.key("")))
        return kept or (WorkspaceRecord.from_job() if self.in_job else None)

    def _requested_record(self) -> WorkspaceRecord:
        answer = self.rest.get(self.arm(), params={"api-version": ApiVersion.WORKSPACES})
        record = WorkspaceRecord.from_arm(answer, self.address)
        if not record.data_plane:
            found = self.rest.get_object(record.discovery_url, "address") if _is_service(record.discovery_url) else {}
            data_plane = str(found.get("api") or "").rstrip("/")
            if not _is_service(data_plane):
                raise ServiceFailed(
                    f"Azure does not tell where the services of {self.address.label} are.",
                    hint="Ask its owner whether it is still being created.",
                )
            record = replace(record, data_plane=data_plane)
        self.kept.put(RECORDS, self.key(""), asdict(record), seconds=RECORD_SECONDS)
        return record

    def _scope_of(self, url: str) -> str | None:
        parts, cloud = parts_of(url), self.address.cloud
        host = (parts.hostname or "").lower()
        if parts.scheme != "https":
            raise ServiceFailed(f"himl sends no sign-in to '{host}' without TLS.")
        if parts.path in (OPEN_PAGE, "/discovery"):  # the latter of the workspace's services; needs none either
            return None
        if host == urlsplit(cloud.resource_manager).hostname:
            return cloud.management_scope
        known = self._record or (self._known_record() if self.in_job else None)
        is_data_plane = known is not None and host == parts_of(known.data_plane).hostname
        if is_data_plane or host.endswith(cloud.data_plane_suffix):
            return self._data_plane_scope
        raise ServiceFailed(f"himl sends its sign-in to Azure only, not to '{host}'.")

    def _new_run_token(self, old: str) -> tuple[str, float]:
        # Not by `record()`: whoever holds its lock may be waiting for a token
        record = self._record or self._known_record()
        if record is None:
            raise ServiceFailed("The job's environment does not tell where the workspace's services are.")
        experiment, run = os.environ.get("AZUREML_ARM_PROJECT_NAME", ""), os.environ.get("AZUREML_RUN_ID", "")
        history = f"{record.data_plane}/{SERVICES['history'].format(quote(self.address.path))}"
        url = f"{history}/experiments/{quote(experiment)}/runs/{quote(run)}/token"
        given = responses.object_of(self.rest.send("GET", url, token=old).body, url, "run token")
        text, ends = given.get("token"), responses.as_time(str(given.get("expiryTimeUtc") or ""))
        if not isinstance(text, str) or not text or ends is None:
            raise ServiceFailed("The answer for a new run token holds none.")
        return text, ends.timestamp()


def _is_service(url: str) -> bool:
    parts = parts_of(url)
    return parts.scheme == "https" and bool(parts.hostname)
