"""Data assets: names and versions for files that lie in datastores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import NotFound
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.forms import LATEST
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import resources, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused

FOLDER, FILE = "uri_folder", "uri_file"
SHOWN = 10  # versions or names that a message names
MOST_NAMES = 1000  # that are looked through for a near one
_NEW_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_STRANGE = re.compile(r"[/\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class DataAsset:
    """One version: `id` is its resource id; `kind` `uri_folder`, `uri_file` or `mltable`; `uri` is where it lies, empty
    where that was not asked."""

    name: str
    version: str
    id: str
    kind: str
    uri: str = ""


def can_be_registered(name: str) -> bool:
    """Whether a new data asset may be called so."""
    return _NEW_NAME.fullmatch(name) is not None


class RegisteredData:
    """The data assets of one workspace, as they are now. Every call raises as `Rest` does. Safe for several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = connection.rest

    def find(self, name: str, version: str | None, *, with_uri: bool = False) -> DataAsset | None:
        """The *version* of the asset called *name*, or its latest; None where nothing is called so. One request, or two
        with the uri of the latest.

        Raises NotFound, naming the versions there are, for one that is not there.
        """
        if _STRANGE.search(name) or name in (
            "",
            ".",
            "..",
        ):  # not to be asked for: it would mean something else in a URL
            return None
        if version is not None and version != LATEST:
            return self._version(name, version) or self._refuse(name, version)
        latest = self._latest(name)
        return self._version(latest.name, latest.version) if latest is not None and with_uri else latest

    def register(self, name: str, uri: str) -> DataAsset:
        """Make the folder at *uri* version 1 of a new asset; where somebody else was quicker, that asset."""
        url = self._url(name, "1")
        properties = {"dataType": FOLDER, "dataUri": uri, "isAnonymous": False, "isArchived": False}
        try:
            answer = self._rest.send(
                "PUT", url, params={"api-version": api_versions.DATA}, json={"properties": properties}
            ).body
        except ServiceRefused as err:
            found = self._latest(name) if err.status < 500 else None
            if found is None:
                raise
            return found
        return _asset(name, answer, url)

    def near(self, name: str) -> str:
        """A hint at assets whose names are like *name*; empty without any."""
        found = resources(
            self._rest.get, self._connection.arm("/data"), "data assets", {"api-version": api_versions.DATA}
        )
        return did_you_mean(name, [str(item.get("name")) for item in islice(found, MOST_NAMES)])

    def _latest(self, name: str) -> DataAsset | None:
        url = self._connection.arm(f"/data/{quote(name, safe='')}")
        try:
            answer = self._rest.get_object(url, "data asset", params={"api-version": api_versions.DATA})
        except ServiceNotFound:
            return None
        with understood(url, "the data asset"):
            properties = answer["properties"]
            version, kind = str(properties.get("latestVersion") or ""), str(properties.get("dataType") or "")
            if version and kind:
                return DataAsset(name, version, f"{answer['id']}/versions/{version}", kind)
        newest = next(self._versions(name), None)  # an asset whose versions do not count up
        return _asset(name, newest, url) if newest is not None else None

    def _version(self, name: str, version: str) -> DataAsset | None:
        url = self._url(name, version)
        try:
            return _asset(name, self._rest.get(url, params={"api-version": api_versions.DATA}), url)
        except ServiceNotFound:
            return None

    def _refuse(self, name: str, version: str) -> DataAsset | None:
        """Raises NotFound where other versions are there; None where nothing is called *name*."""
        found = [str(item.get("name")) for item in islice(self._versions(name), SHOWN + 1)]
        if not found:
            return None
        there = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
        raise NotFound(
            f"The data asset '{name}' of {self._connection.address.label} has no version '{version}'; there are: "
            f"{there}.",
            hint="Without a version the latest one is used.",
        )

    def _versions(self, name: str) -> Iterator[Mapping[str, Any]]:
        """The newest first; none where nothing is called *name*."""
        url = self._connection.arm(f"/data/{quote(name, safe='')}/versions")
        try:
            yield from resources(
                self._rest.get,
                url,
                "versions",
                {"api-version": api_versions.DATA, "$orderBy": "createdtime desc", "$top": str(SHOWN + 1)},
            )
        except ServiceNotFound:
            return

    def _url(self, name: str, version: str) -> str:
        return self._connection.arm(f"/data/{quote(name, safe='')}/versions/{quote(version, safe='')}")


def _asset(name: str, resource: Any, url: str) -> DataAsset:
    """The asset in *resource*, an answer of *url*. Raises ServiceFailed where it is none."""
    with understood(url, "the data asset"):
        properties = resource["properties"]
        return DataAsset(
            name,
            str(resource["name"]),
            str(resource["id"]),
            str(properties["dataType"]),
            str(properties.get("dataUri") or ""),
        )
