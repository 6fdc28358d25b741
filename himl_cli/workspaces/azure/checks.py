"""Whether an Azure ML workspace can be used from here: the lines that it gives to `himl doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from urllib.parse import quote

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import NotAllowed
from himl_cli.core.workspaces import Check, WorkspaceFacts, tried
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.storage.curl import load_pycurl
from himl_cli.workspaces.base import BlobStore

PROBE = "himl-doctor/"
"""A prefix that nothing has: listing it shows whether listing is allowed, and brings one short answer."""

CURL, SIGN_IN, CLOCK, WORKSPACE, DATASTORE = "curl", "sign-in", "clock", "workspace", "datastore"


def checks(connection: Connection, datastore: Callable[[], BlobStore]) -> Iterator[Check]:
    """The library that moves bytes, signing in, the clock, the workspace, its default datastore, asked anew and not
    from the cache."""
    moves_bytes = tried(CURL, lambda: Check.passed(CURL, "{}, {}.".format(*str(load_pycurl().version).split()[:2])))
    yield moves_bytes
    signed_in = tried(SIGN_IN, partial(_sign_in, connection))
    yield signed_in
    yield tried(CLOCK, partial(_clock, connection))
    if not _is_well(signed_in):
        yield from (Check.skipped(name, f"Not looked at: the {SIGN_IN} failed.") for name in (WORKSPACE, DATASTORE))
        return
    reached = tried(WORKSPACE, partial(_workspace, connection))
    yield reached
    failed = next((check.name for check in (reached, moves_bytes) if not _is_well(check)), None)
    yield (
        Check.skipped(DATASTORE, f"Not looked at: the {failed} failed.")
        if failed
        else tried(DATASTORE, partial(_datastore, connection, datastore))
    )


def _is_well(check: Check) -> bool:
    return check.state is not check.state.failed


def _sign_in(connection: Connection) -> Check:
    signed_in = connection.sign_in()
    is_named = signed_in.principal[:8] in signed_in.credential
    who = f", as {signed_in.principal}" if signed_in.principal and not is_named else ""
    tenant = f", tenant {signed_in.tenant_id}" if signed_in.tenant_id else ""
    minutes = max(0, round((signed_in.expires - datetime.now(timezone.utc)).total_seconds() / 60))
    left = f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"
    return Check.passed(SIGN_IN, f"{signed_in.credential}{who}{tenant}; good for {left}.")


def _clock(connection: Connection) -> Check:
    ahead = connection.clock_skew()
    if ahead is None:
        return Check.skipped(CLOCK, "The service did not say what time it is.")
    if abs(ahead) > responses.TOLERABLE_SECONDS:
        return Check.failed(
            CLOCK,
            f"This machine's clock is {responses.describe_skew(ahead)} the service's.",
            "Set it, best by synchronising it: signatures are refused else.",
        )
    return Check.passed(CLOCK, f"within {max(1, round(abs(ahead)))} s of the service's.")


def _workspace(connection: Connection) -> Check:
    """Resource manager is asked, or in a job, whose token it may not take, run history."""
    if connection.in_job:
        run_id = os.environ["AZUREML_RUN_ID"]
        connection.rest.get(connection.service("history", f"/runs/{quote(run_id, safe='')}"))
        return Check.passed(WORKSPACE, f"{connection.address.label} answers, and knows this job's run '{run_id}'.")
    record = connection.record(fresh=True)
    return Check.passed(WORKSPACE, f"{connection.address.label} answers, in {record.location}.")


def _datastore(connection: Connection, datastore: Callable[[], BlobStore]) -> Check:
    """A job may well run without an identity: datastores that want one are then out of its reach, and that is no
    failure."""
    try:
        store = datastore()
        for _ in store.list(PROBE):
            break
    except NotAllowed as err:
        if not connection.in_job:
            raise
        return Check.note(DATASTORE, str(err), err.hint)
    return Check.passed(DATASTORE, f"{store.label} can be listed.")


def describe(connection: Connection, datastores: Callable[[], Sequence[DatastoreInfo]]) -> WorkspaceFacts:
    """Its ids, place, default datastore and page in Studio; what a job cannot find out is "". Raises what the requests
    for them raise."""
    address, record = connection.address, connection.record()
    try:
        default = next((store.name for store in datastores() if store.is_default), "")
    except NotAllowed:
        if not connection.in_job:
            raise
        default = ""
    facts = {
        "workspace_name": address.name,
        "resource_group": address.resource_group,
        "subscription_id": address.subscription_id,
        "tenant_id": record.tenant_id,
        "workspace_id": record.workspace_id,
        "location": record.location,
        "cloud": address.cloud.name,
        "storage_account": record.storage_account.rpartition("/")[2],
        "default_datastore": default,
        "studio_url": address.studio_url(tenant_id=record.tenant_id),
    }
    return WorkspaceFacts("azure", address.label, address.source, facts)
