"""A small Digital Slide Archive with the routes of Girder 5 and large_image_annotation that himl calls, according to
their documentation. It validates annotations with large_image's own schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema

from tests.support.web import answering

KEY, TOKEN = "kEyOfAdaWhichNobodyMaySee", "tOkEnOfAdaWhichNobodyMaySee"
SCHEMA = json.loads(Path(__file__).with_name("dsa_annotation_schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft6Validator(SCHEMA)
Document = dict[str, Any]


class Refused(Exception):
    """An error of Girder: its status, type and message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass
class Archive:
    """`documents` by id. `faults` apply to the next requests that write an annotation: a status, or -1 for a connection
    that breaks once it is stored.

    `seen` are method, path with query, and headers of all requests. `moved_to` makes every reply a redirect.
    """

    address: str
    documents: dict[str, Document] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    seen: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    moved_to: str = ""
    is_read_only: bool = False
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def add(self, path: str) -> str:
        """The id of `COLLECTION[/FOLDER...][/ITEM]`, created with its parents if it is missing. Items are names with
        a dot.
        """
        parent, above = None, ""
        for name in path.split("/"):
            kind = "collection" if parent is None else "item" if "." in name else "folder"
            found = next(
                (each for each in self._named(name) if each["_modelType"] == kind and each["_parent"] == above), None
            )
            parent = found or self._store(kind, above, {"name": name, "_parentType": parent and parent["_modelType"]})
            above = parent["_id"]
        return above

    def annotations(self, item_id: str) -> list[Document]:
        return [
            each
            for each in self.documents.values()
            if each["_modelType"] == "annotation" and each["_parent"] == item_id
        ]

    def _named(self, name: str) -> list[Document]:
        return [each for each in self.documents.values() if each.get("name") == name]

    def _store(self, kind: str, parent: str, more: Document) -> Document:
        number = next(self._ids)
        made = {
            "_id": f"{number:024x}",
            "_modelType": kind,
            "_parent": parent,
            "updated": f"2026-03-01T12:00:{number % 60:02d}.000000+00:00",
            **more,
        }
        self.documents[made["_id"]] = made
        return made

    def answer(self, method: str, route: str, query: Mapping[str, str], body: bytes, token: str) -> Any:
        if (method, route) == ("GET", "system/version"):
            return {"release": "5.0.21", "serverStartDate": "2026-03-01T12:00:00.000000+00:00"}
        if (method, route) == ("POST", "api_key/token"):
            if dict(parse_qsl(body.decode())).get("key") != KEY:
                raise Refused(400, "validation", "Invalid API key.")
            return {
                "user": {"_id": "f" * 24},
                "authToken": {"token": TOKEN, "expires": "2027-03-01T12:00:00+00:00", "scope": ["core.user_auth"]},
            }
        if token != TOKEN:
            raise Refused(401, "access", "You must be logged in.")
        base, _, rest = route.partition("/")
        if method == "GET":
            return self._get(base, rest, query)
        if base != "annotation" or method not in ("POST", "PUT"):
            raise Refused(400, "rest", f'No matching route for "{method} {route}"')
        if self.is_read_only:
            raise Refused(403, "rest", "Write access and annotation creation access were denied for the item.")
        document = json.loads(body)
        for error in CHECK.iter_errors(document):
            raise Refused(400, "rest", f"Validation Error: JSON doesn't follow schema ({error.message}).")
        if method == "PUT":
            self._load("annotation", rest)["annotation"] = document
            return self.documents[rest]
        return self._store("annotation", self._load("item", query["itemId"])["_id"], {"annotation": document})

    def _load(self, kind: str, id: str) -> Document:
        found = self.documents.get(id)
        if found is None or found["_modelType"] != kind:
            raise Refused(400, "rest", f"Invalid {kind} id ({id}).")
        return found

    def _get(self, base: str, rest: str, query: Mapping[str, str]) -> Any:
        if base == "resource" and rest == "lookup":
            return self._lookup(query["path"])
        if base == "resource" and rest == "search":
            return {kind: self._search(kind, query) for kind in json.loads(query["types"])}
        if rest:
            return self._load(base, rest)
        above = {"collection": "", "folder": "parentId", "item": "folderId", "annotation": "itemId"}[base]
        found = [
            each
            for each in self.documents.values()
            if each["_modelType"] == base and each["_parent"] == query.get(above, "")
        ]
        if base != "annotation":
            return _page(sorted(found, key=lambda each: each["name"].lower()), query)
        heads = [
            {
                **each,
                "annotation": {key: value for key, value in each["annotation"].items() if key != "elements"},
                "_elementCount": len(each["annotation"]["elements"]),
            }
            for each in found
            if query.get("name") in (None, each["annotation"]["name"])
        ]
        key = "updated" if query.get("sort") == "updated" else "_id"
        return _page(sorted(heads, key=lambda each: each[key], reverse=query.get("sortdir") == "-1"), query)

    def _lookup(self, path: str) -> Document:
        kind, *names = path.strip("/").split("/")
        found, above = None, ""
        for name in names if kind == "collection" else ():
            found = next((each for each in self._named(name) if each["_parent"] == above), None)
            if found is None:
                raise Refused(400, "validation", f"Path not found: {path.lstrip('/')}")
            above = found["_id"]
        if found is None:
            raise Refused(400, "validation", "Invalid path format")
        return found

    def _search(self, kind: str, query: Mapping[str, str]) -> list[Document]:
        """Search by MongoDB's rules: a text has a whole phrase in quotes, or any of the words. Words are letters,
        digits and underscores.
        """
        text, every = query["q"].lower(), [each for each in self.documents.values() if each["_modelType"] == kind]
        if query.get("mode") == "prefix":
            found = [each for each in every if each["name"].lower().startswith(text)]
        else:
            phrase, words = text.strip('"'), set(re.findall(r"\w+", text))
            found = [
                each
                for each in every
                if words & set(re.findall(r"\w+", each["name"].lower()))
                and (text == phrase or phrase in each["name"].lower())
            ]
        return _page(found, {"limit": "10", **query})


def _page(found: list[Document], query: Mapping[str, str]) -> list[Document]:
    """One page of *found*. The default limit is 50, and 0 means all."""
    return found[: int(query.get("limit", "50")) or None]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # sends headers and body in one packet

    def do_GET(self) -> None:
        archive: Archive = self.server.archive  # type: ignore[attr-defined]
        archive.seen.append((self.command, self.path, dict(self.headers.items())))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        route = parts.path.removeprefix("/dsa/api/v1/")
        status, kind, content = 200, "application/json", b""
        writes = self.command != "GET" and route.startswith("annotation")
        fault = archive.faults.pop(0) if writes and archive.faults else 0
        if archive.moved_to:
            status = 302
        elif route == parts.path:
            status, kind, content = 404, "text/html", b"<h1>Not Found</h1>"
        elif fault > 0:
            status, content = (
                fault,
                json.dumps({"type": "internal", "message": "An unexpected error occurred on the server."}).encode(),
            )
        else:
            try:
                content = json.dumps(
                    archive.answer(
                        self.command, route, dict(parse_qsl(parts.query)), body, self.headers.get("Girder-Token", "")
                    )
                ).encode()
            except Refused as err:
                status, content = err.status, json.dumps({"type": err.kind, "message": str(err)}).encode()
        if fault < 0:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            **({"Location": archive.moved_to} if status == 302 else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def running_archive() -> Iterator[Archive]:
    """An empty archive on localhost, below `/dsa`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    archive = Archive(f"http://localhost:{server.server_port}/dsa")
    server.archive = archive  # type: ignore[attr-defined]
    with answering(server):
        yield archive
