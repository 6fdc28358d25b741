"""The connection to one workspace: its record, its services, their tokens, and the cache of these on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from himl_cli import __version__
from himl_cli.core.errors import HimlError, ServiceFailed, WorkspaceNotFound
from himl_cli.core.files import atomic_replacement
from himl_cli.core.json_text import read_json
from himl_cli.core.processes import register_after_fork
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import parts_of, redact
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.config import JOB_SOURCE, ApiVersion, AzureSettings, WorkspaceAddress
from himl_cli.workspaces.azure.credentials import RUN_TOKEN, Chain, JobIdentity, Token, user_sources
from himl_cli.workspaces.azure.http import open_http_session, read_response
from himl_cli.workspaces.azure.network_errors import is_unknown_host, network_error
from himl_cli.workspaces.azure.responses import Page, Response, pages
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, claims_of, refusal, says_closed
from himl_cli.workspaces.retry import CONTROL_PLANE, RetryPolicy

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

# Part of the folder's name. A new layout gets a new number, so that himl never reads old files.
CACHE_VERSION = "1"

# The longest lifetime of a value. Files older than this can be removed unread.
LONGEST_SECONDS = 2 * 24 * 3600.0


class DiskCache:
    """The cache on disk, by kind and key, of tokens, workspace records and datastore secrets. Disk errors never raise.

    Each value is a small JSON file with an expiry, in the user's cache folder. Only the user can access the folder
    (0700) and each file (0600, from its creation). On Windows the access list of the user's profile ensures this.
    A folder of another owner, a link in its place, and an unreadable or invalid file count as empty, and himl then
    stores nothing. Files are replaced as a whole, so any number of processes may read and write at once. The last
    writer wins.
    """

    def __init__(self, folder: Path | None) -> None:
        """Store values below *folder*, or nowhere if it is None."""
        self._folder = folder
        self._swept: set[Path] = set()

    @classmethod
    def of_user(cls) -> DiskCache:
        """The cache in the user's cache folder, or an empty one if HIML_NO_CACHE is set to anything but 0."""
        if os.environ.get("HIML_NO_CACHE", "") not in ("", "0"):
            return cls(None)
        import platformdirs

        try:
            folder = platformdirs.user_cache_path("himl", appauthor=False) / "azure"
        except RuntimeError:  # a user without a home folder (older platformdirs return a relative path)
            return cls(None)
        return cls(folder if folder.is_absolute() else None)

    def get(self, kind: str, key: str) -> Any | None:
        """The value, or None if it is missing or expired."""
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
        """Store a JSON *value* for *seconds*, at most two days."""
        path = self._path(kind, key)
        if path is None or seconds <= 0:
            return
        folder, now = path.parent, time.time()
        content = json.dumps({"key": key, "expires": now + min(seconds, LONGEST_SECONDS), "value": value})
        try:
            for level in (folder.parent.parent, folder.parent, folder):
                level.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(folder):
                raise PermissionError(f"other users can access '{folder}'")
            with atomic_replacement(path, is_private=True) as temporary:
                Path(temporary).write_text(content, encoding="ascii")
            if folder not in self._swept:  # once suffices, even with thousands of values
                self._swept.add(folder)
                for old in folder.iterdir():  # values of other accounts, partial files of killed processes
                    with suppress(OSError):  # another process removed it, or has it open
                        if old.stat().st_mtime < now - LONGEST_SECONDS:
                            old.unlink()
        except OSError as err:
            log.debug("cannot store anything in %s: %s", folder, err)

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
        return self._folder / f"v{CACHE_VERSION}" / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def _is_private(folder: Path) -> bool:
    """Return whether *folder* and the two above it are real folders that only this user can access, after fixing their
    modes."""
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


TOKENS = "tokens"  # a kind in the cache


class Tokens:
    """The tokens of one connection, shared by its threads. One thread fetches a token while the others wait for it."""

    def __init__(self, issuer: Chain, kept: DiskCache) -> None:
        self._issuer, self._kept = issuer, kept
        self._held: dict[str, Token] = {}
        self._lock = threading.RLock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    def get(self, scope: str) -> str:
        """A token for *scope*, valid for at least five minutes if the service issues such tokens.

        Raises NotAllowed naming the credentials that himl tried, ServiceFailed if it cannot reach the sign-in service.
        """
        with self._lock:
            held = self._held.get(scope)
            if held is None or time.time() >= held.renew_at:
                held = self._held_before(scope) or held  # another process may have signed in
            if held is None or time.time() >= held.renew_at:
                try:
                    held = self._fetched(scope, anew=held is not None)
                except HimlError as err:
                    if held is None or not held.lasts():
                        raise
                    left = held.expires - time.time()
                    log.warning("cannot renew the sign-in (%s); it is valid for another %d s", err, left)
            self._held[scope] = held
            return held.text

    def renew(self, scope: str, rejected: str, claims: str = "") -> str:
        """After a 401, get a token other than *rejected*, with the *claims* that the service requested.

        Returns the token of another thread that just renewed it. Discards the rejected token, unless the service
        requested claims: if no credential can satisfy them, that token may still be valid for reading.
        """
        with self._lock:
            held = self._held.get(scope)
            if held is not None and held.text != rejected:
                return held.text
            log.debug("the service rejected a token for %s; fetching another", scope)
            if not claims:
                self._held.pop(scope, None)
                self._kept.forget(TOKENS, self._key(scope))
            return self._fetched(scope, anew=True, claims=claims).text

    def credential_for(self, scope: str) -> str:
        """The name in messages of the credential whose token is in use."""
        held = self._held.get(scope)
        return held.credential if held is not None else "this sign-in"

    def sign_in(self, scope: str) -> Token:
        """A new token for *scope*, not from the cache unless the credential is interactive. Raises as `get`."""
        with self._lock:
            held = self._held.get(scope) or self._held_before(scope)
            if held is not None and self._issuer.is_for_once(held.credential):
                self.get(scope)
                return self._held[scope]
            return self._fetched(scope, anew=scope in self._held)

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
    """The part of resource manager's response for the workspace that himl uses, or its equivalent from a job's
    environment.

    `data_plane` is the address of run history and the related services, without a trailing slash:
    `https://REGION.api.azureml.ms` or a private address. `storage_account` is the ARM id of the workspace's own
    account, or "" if unknown.
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
        """From `GET {workspace}`. `data_plane` is empty if the response lacks it, and comes from discovery then.

        Raises ServiceFailed for another response.
        """
        properties = answer.get("properties") if isinstance(answer, Mapping) else None
        if not isinstance(properties, Mapping):
            raise ServiceFailed(
                f"The response for {address.label} contains no workspace.", hint="Check the proxy of this network."
            )
        names = ("workspaceId", "tenantId", "storageAccount", "discoveryUrl", "mlFlowTrackingUri")
        workspace_id, tenant_id, storage, discovery, tracking = (str(properties.get(name) or "") for name in names)
        host = parts_of(tracking).netloc
        # Discovery may differ, for example behind a private link. The vendor's clients then use it.
        is_told = host and (not discovery or parts_of(discovery).netloc == host)
        data_plane = f"https://{host}" if is_told else ""
        return cls(workspace_id, str(answer.get("location") or ""), data_plane, tenant_id, storage, discovery)

    @classmethod
    def from_job(cls) -> WorkspaceRecord | None:
        """From the environment of an Azure ML job, or None if it lacks the services' address."""
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
SERVICE_PATHS = {
    "artifact": "artifact/v2.0{}",
    "data": "data/v1.0{}",
    "datastore": "datastore/v1.0{}",  # accepts a job's run token
    "environment": "environment/v1.0{}",  # in the form of the vendor's older SDK
    "history": "history/v1.0{}",
    "index": "index/v1.0{}",  # of the runs of the whole workspace
    "metric": "metric/v2.0{}",
    "mlflow": "mlflow/v2.0{}/api/2.0/mlflow",
    "modelregistry": "modelregistry/v1.0{}",
}


class Connection(AbstractContextManager["Connection"]):
    """Requests to the services of one workspace, in the form of httpx, with the right token, from any number of
    threads. Construction sends no request. The first call that needs a token signs in. Each response also goes to the
    `observers`.

    The transport retries requests. A 401 leads to one retry with a new token and the claims that the response requests.
    himl follows no redirects, so that no token reaches a host for which it was not issued.

    Every request raises ServiceNotFound for 404 (WorkspaceNotFound for a missing subscription, group or workspace),
    NotAllowed for 401 and 403, and ServiceFailed for any other failure.
    """

    def __init__(
        self, address: WorkspaceAddress, issuer: Chain, kept: DiskCache, kept_tokens: DiskCache, policy: RetryPolicy
    ) -> None:
        """*policy* decides on retries."""
        self.address, self.kept, self._issuer, self._policy = address, kept, issuer, policy
        self.in_job = address.source == JOB_SOURCE
        self.tokens = Tokens(issuer, kept_tokens)
        self.observers: list[Callable[[Response], object]] = []
        self._record: WorkspaceRecord | None = None
        self._session: Any = None
        self.after_fork()
        register_after_fork(self)

    def after_fork(self) -> None:
        # A thread that holds the first one, for the record, may wait for a response and so for the other
        self._lock, self._session_lock = threading.RLock(), threading.Lock()
        if self._session is not None:
            self._closer.detach()
            self._session = None

    @classmethod
    def open(
        cls, address: WorkspaceAddress, *, settings: AzureSettings, policy: RetryPolicy = CONTROL_PLANE
    ) -> Connection:
        """Connect to *address*, with the retries of *policy*.

        Raises NotAllowed for a service principal with missing parts.
        """
        kept, cloud = DiskCache.of_user(), address.cloud
        if address.source == JOB_SOURCE:
            job = JobIdentity(settings, cloud, lambda old: connection._new_run_token(old))
            connection = cls(address, job, kept, DiskCache(None), policy)
            return connection
        chain = Chain(user_sources(settings, cloud, address.subscription_id), authority=cloud.authority)
        return cls(address, chain, kept, kept, policy)

    @property
    def has_run_token(self) -> bool:
        """Return whether requests to the workspace's services use a job's run token."""
        return self.in_job and bool(os.environ.get("AZUREML_RUN_TOKEN"))

    def record(self, *, fresh: bool = False) -> WorkspaceRecord:
        """The workspace's record: from memory, from the cache (one day), or from the service.

        *fresh* always requests it. In a job without an identity it comes from the environment. Raises as `Connection`.
        """
        with self._lock:
            found = None if fresh else self._record or self._known_record()
            if found is None:
                answer = self.get(self.arm(), params={"api-version": ApiVersion.WORKSPACES}).body
                found = WorkspaceRecord.from_arm(answer, self.address)
                if not found.data_plane:
                    told = self.get(found.discovery_url).object("address") if _is_service(found.discovery_url) else {}
                    data_plane = str(told.get("api") or "").rstrip("/")
                    if not _is_service(data_plane):
                        raise ServiceFailed(
                            f"Azure returned no address of the services of {self.address.label}.",
                            hint="Ask its owner whether its creation is complete.",
                        )
                    found = replace(found, data_plane=data_plane)
                self.kept.put(RECORDS, self.key(""), asdict(found), seconds=RECORD_SECONDS)
            self._record = found
            return found

    def forget_record(self) -> None:
        """Discard the stored record, which proved wrong (for example, if the services' host name has no address)."""
        self._record = None
        self.kept.forget(RECORDS, self.key(""))

    def arm(self, path: str = "") -> str:
        """The URL of the workspace in resource manager, or of *path* below it. The caller adds `api-version`."""
        return f"{self.address.cloud.resource_manager}{quote(self.address.path)}{path}"

    def service(self, name: str, path: str = "") -> str:
        """The URL of *path* in a service of the workspace, by the service's name in SERVICE_PATHS."""
        return f"{self.record().data_plane}/{SERVICE_PATHS[name].format(quote(self.address.path))}{path}"

    def get(self, url: str, *, params: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", url, params=params)

    def find_object(self, url: str, what: str, *, params: Mapping[str, str] | None = None) -> Mapping[str, Any] | None:
        """The JSON object with *what* at *url*, or None for a missing resource."""
        try:
            return self.get(url, params=params).object(what)
        except ServiceNotFound:
            return None

    def resources(self, url: str, what: str, params: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
        """The resources in resource manager's list of *what* at *url*."""
        for page in self.pages(url, what, params):
            yield from page.items

    def pages(self, url: str, what: str, params: Mapping[str, str]) -> Iterator[Page]:
        """The pages of resource manager's list of *what* at *url*, each requested when it is needed. A page on another
        host gets no token."""
        return pages(lambda _: self.get(url, params=params).body, url, what, follow=lambda link: self.get(link).body)

    def post(self, url: str, *, params: Mapping[str, str] | None = None, json: Any = None) -> Response:
        return self.request("POST", url, params=params, json=json)

    def patch(self, url: str, *, json: Any) -> Response:
        return self.request("PATCH", url, json=json)

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Any request, for callers that need the status or headers (202 with a `Location`), or send their own *headers*
        or a fixed *token*. It may be sent more than once."""
        full = f"{url}{'&' if '?' in url else '?'}{urlencode(params, quote_via=quote)}" if params else url
        scope = self._scope_of(full)
        used = token or (self.tokens.get(scope) if scope else None)
        answer = self._send(method, full, json, used, headers)
        if answer.status_code == 401 and scope and used and not token:
            text = answer.text
            # The service would reject a new token, too, because it is of the same wrong tenant.
            if "InvalidAuthenticationTokenTenant" not in text and not says_closed(text):
                used = self.tokens.renew(scope, used, claims_of(answer.headers))
                answer = self._send(method, full, json, used, headers)
        found = read_response(method, full, answer)
        for observe in self.observers:
            observe(found)
        if found.status >= 400:
            error = refusal(found, self.address, self.tokens.credential_for(scope) if scope else "no sign-in")
            if isinstance(error, WorkspaceNotFound):
                self.forget_record()
            raise error
        return found

    def _send(
        self, method: str, url: str, body: Any, token: str | None, more: Mapping[str, str] | None
    ) -> requests.Response:
        headers = {
            "User-Agent": f"himl/{__version__}",
            "Accept": "application/json",
            "x-ms-client-request-id": str(uuid.uuid4()),
            **(more or {}),
        }
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        began = time.perf_counter()
        with self._session_lock:
            if self._session is None:
                self._session = open_http_session(self._policy)
                self._closer = weakref.finalize(self, self._session.close)
            session = self._session
        from requests import RequestException

        try:
            answer: requests.Response = session.request(
                method, url, headers=headers, data=None if body is None else json.dumps(body)
            )
        except RequestException as err:
            resource_manager = urlsplit(self.address.cloud.resource_manager).hostname
            if is_unknown_host(err) and urlsplit(url).hostname != resource_manager:
                self.forget_record()
            raise network_error(err, url) from err
        log.debug("%s %s -> %d in %.3f s", method, redact(url), answer.status_code, time.perf_counter() - began)
        return answer

    def sign_in(self) -> Token:
        """Sign in. Raises NotAllowed, or ServiceFailed if himl cannot reach the sign-in service."""
        return self.tokens.sign_in(RUN_TOKEN if self.has_run_token else self.address.cloud.management_scope)

    def clock_skew(self) -> float | None:
        """Seconds by which this machine's clock is ahead of Azure's (negative if behind), to about one second, or None.

        Requests a page of resource manager that needs no sign-in. Raises ServiceFailed without a response.
        """
        url = f"{self.address.cloud.resource_manager}{OPEN_PAGE}"
        return responses.clock_skew(self.request("GET", url, params={"api-version": ApiVersion.ENDPOINTS}).headers)

    def close(self) -> None:
        with self._session_lock:
            if self._session is not None:
                self._closer()
                self._session = None
        self._issuer.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def key(self, what: str) -> str:
        """The cache key for *what*, which is private to this account, workspace and cloud."""
        return f"{self._issuer.identity} {self.address.cloud.name} {self.address.path.lower()} {what}"

    def _known_record(self) -> WorkspaceRecord | None:
        kept = WorkspaceRecord.from_json(self.kept.get(RECORDS, self.key("")))
        return kept or (WorkspaceRecord.from_job() if self.in_job else None)

    def _scope_of(self, url: str) -> str | None:
        parts, cloud = parts_of(url), self.address.cloud
        host = (parts.hostname or "").lower()
        if parts.scheme != "https":
            raise ServiceFailed(f"himl sends no credentials to '{host}' without TLS.")
        if parts.path in (OPEN_PAGE, "/discovery"):  # the latter is of the workspace's services and needs no token
            return None
        if host == urlsplit(cloud.resource_manager).hostname:
            return cloud.management_scope
        known = self._record or (self._known_record() if self.in_job else None)
        is_data_plane = known is not None and host == parts_of(known.data_plane).hostname
        if is_data_plane or host.endswith(cloud.data_plane_suffix):
            return RUN_TOKEN if self.has_run_token else cloud.management_scope
        raise ServiceFailed(f"himl sends its credentials only to Azure, not to '{host}'.")

    def _new_run_token(self, old: str) -> tuple[str, float]:
        # Not `record()`: a thread that holds its lock may be waiting for a token.
        record = self._record or self._known_record()
        if record is None:
            raise ServiceFailed("The job's environment lacks the address of the workspace's services.")
        experiment, run = os.environ.get("AZUREML_ARM_PROJECT_NAME", ""), os.environ.get("AZUREML_RUN_ID", "")
        history = f"{record.data_plane}/{SERVICE_PATHS['history'].format(quote(self.address.path))}"
        url = f"{history}/experiments/{quote(experiment)}/runs/{quote(run)}/token"
        given = self.request("GET", url, token=old).object("run token")
        text, ends = given.get("token"), responses.as_time(str(given.get("expiryTimeUtc") or ""))
        if not isinstance(text, str) or not text or ends is None:
            raise ServiceFailed("The response for a new run token contains no token.")
        return text, ends.timestamp()


def _is_service(url: str) -> bool:
    parts = parts_of(url)
    return parts.scheme == "https" and bool(parts.hostname)
