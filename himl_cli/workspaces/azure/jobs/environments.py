"""The environment of a job: a registered one that is looked for, or one made from files that is registered where it is
new."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DOCKERFILE, EnvironmentSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.build_context import context_digest, context_files, upload_context
from himl_cli.workspaces.azure.jobs.registered_environments import environment_id
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.kept import LONGEST_SECONDS
from himl_cli.workspaces.azure.requests.times import as_time, http_time
from himl_cli.workspaces.azure.rest import Reply
from himl_cli.workspaces.azure.storage.datastores import Datastores

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.jobs.builder import Built

KIND = "environments"
CLOCK_SECONDS = 2.0  # two clocks of the service may differ by that
WITH_WHEELS, BUILT = "himl-private-wheels", "himl-build-context"
"""The names under which environments are registered that have private wheels, or are built from a folder; their
versions are digests of their contents."""


@dataclass(frozen=True)
class EnvironmentAsset:
    """`id` is what goes into the job; `is_kept`: it was known here and nobody was asked."""

    id: str
    is_kept: bool


class JobEnvironment:
    """The environment of one job, as a workspace has it."""

    def __init__(self, connection: Connection, datastores: Datastores, spec: EnvironmentSpec) -> None:
        self._connection = connection
        self._datastores = datastores
        self._spec = spec

    def find(self) -> EnvironmentAsset | None:
        """The environment if it is there: a named one is asked for, one made from files is known here or has to be
        registered.

        Raises NotFound for a name that is not there, BadUsage for files that cannot be used.
        """
        if self._spec.name:
            return EnvironmentAsset(
                environment_id(self._connection, self._spec.name, self._spec.version), is_kept=False
            )
        conda_contents(self._spec)
        found = self._connection.kept.get(KIND, self._key)
        return EnvironmentAsset(found, is_kept=True) if isinstance(found, str) and found else None

    def register(self, notify: Notify) -> EnvironmentAsset:
        """Register an environment made from files, as azure-ai-ml does it: the same files give the same version, which
        may be there already."""
        built = self._built()
        url = self._connection.arm(quote(built.path))
        begun = time.monotonic()
        reply = self._connection.rest.send("PUT", url, params={"api-version": built.api_version}, json=built.body)
        with understood(url, "the environment"):
            id = str(reply.body["id"])
            if _was_there(reply, time.monotonic() - begun):
                say_unchanged(notify)
        self._connection.kept.put(KIND, self._key, id, seconds=LONGEST_SECONDS)
        return EnvironmentAsset(id, is_kept=False)

    def forget(self) -> None:
        """Drop what is known of an environment made from files: the workspace has it no more."""
        self._connection.kept.forget(KIND, self._key)

    def _built(self) -> Built:
        load_sdk()
        from himl_cli.workspaces.azure.jobs.builder import build_context_environment, build_environment

        address = self._connection.address
        if isinstance(self._spec.context, str):
            return build_context_environment(address, BUILT, self._digest, self._spec.context, self._spec.dockerfile)
        if not self._digest:
            return build_environment(address, self._spec.image, conda_contents(self._spec))
        context = upload_context(self._connection, self._datastores, self._context, self._digest)
        name = BUILT if self._spec.context else WITH_WHEELS
        return build_context_environment(address, name, self._digest, context, self._spec.dockerfile or DOCKERFILE)

    @cached_property
    def _context(self) -> Mapping[str, bytes | Path]:
        return context_files(self._spec)

    @cached_property
    def _digest(self) -> str:
        """Of what the image is built from; empty where that is an image and a conda file alone."""
        if isinstance(self._spec.context, str):
            return context_digest({self._spec.dockerfile: self._spec.context.encode()})
        if not (self._spec.wheels or self._spec.context):
            return ""
        which = {} if self._spec.dockerfile in ("", DOCKERFILE) else {"": self._spec.dockerfile.encode()}
        return context_digest({**which, **self._context})

    @cached_property
    def _key(self) -> str:
        contents = json.dumps([self._spec.image, self._spec.conda, self._digest])
        return self._connection.key(f"environment {hashlib.sha256(contents.encode()).hexdigest()}")


def _was_there(reply: Reply, seconds: float) -> bool:
    """Whether the environment was made before a request that took *seconds*: the status does not tell. By the service's
    own clock."""
    created, now = as_time((reply.body.get("systemData") or {}).get("createdAt")), http_time(reply.headers.get("date"))
    return created is not None and now is not None and created < now - timedelta(seconds=seconds + CLOCK_SECONDS)


def say_unchanged(notify: Notify) -> None:
    """Tell that an environment was there already."""
    notify(Notice("Environment unchanged since an earlier submit: not registered again."))


def conda_contents(spec: EnvironmentSpec) -> Mapping[str, Any] | None:
    """The conda file's contents. Raises BadUsage for a text that is none."""
    if not spec.conda:
        return None
    import yaml

    try:
        found = yaml.safe_load(spec.conda)
    except yaml.YAMLError as err:
        raise BadUsage(f"The conda file is no YAML: {' '.join(str(err).split())}") from err
    if not isinstance(found, dict):
        raise BadUsage("The conda file holds no 'dependencies'.")
    return found
