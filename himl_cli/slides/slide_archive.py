"""The items of a Digital Slide Archive, found by name, and the upload of annotations to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from himl_cli.core.errors import BadUsage, HimlError, NotFound, ServiceFailed, TransferIncomplete
from himl_cli.core.events import Counted, Counting, Notify
from himl_cli.core.text import did_you_mean, listed, named, near_matches
from himl_cli.slides.annotations import DIGEST, Document

ATTEMPTS = 3
MOST_FOUND = 50  # maximum results of a search
OBJECT_ID = re.compile(r"[0-9a-f]{24}")
Request = Callable[..., Any]
"""`GirderClient.request`."""


class SlideArchive:
    """The items of an archive, found by name, and their annotations. *host* is its name in messages."""

    def __init__(self, request: Request, host: str) -> None:
        self._request, self._host = request, host

    def rows(self, path: str = "") -> list[Document]:
        """The contents of *path*: collections of the archive, folders and items, or the annotations of an item. Raises
        NotFound with similar names."""
        parent = self._lookup(_absolute(path)) if path.strip("/ ") else None
        return [
            {
                "type": kind,
                "name": each["annotation"]["name"] if kind == "annotation" else each["name"],
                "id": each["_id"],
                "elements": each.get("_elementCount"),
                "updated": each.get("updated"),
            }
            for kind, each in self._children(parent)
        ]

    def items(self, path: str) -> list[Document]:
        """The items of the folder at *path*, `COLLECTION/FOLDER`. Raises NotFound, BadUsage if it is no folder."""
        folder = self._lookup(_absolute(path))
        if folder["_modelType"] != "folder":
            inside = named([each["name"] for kind, each in self._children(folder) if kind == "folder"])
            hint = f"Its folders are: {inside}." if inside else "Use COLLECTION/FOLDER."
            raise BadUsage(f"'{path}' is not a folder: its type is {folder['_modelType']}.", hint=hint)
        found: list[Document] = self._request("GET", "item", folderId=folder["_id"], limit=0)
        return found

    def item(self, text: str, items: Sequence[Document] | None = None) -> Document:
        """The only item, among *items* or all of the archive, whose whole name or name up to a dot is *text*, or else
        whose name contains it.

        Raises NotFound with similar names, and BadUsage if there are several such items.
        """
        found = [*items] if items is not None else self._search(f'"{text}"', "text")
        if not (best := _best(found, text)) and items is None:
            best = _best(found + self._search(text, "prefix"), text)
        if len(best) > 1:
            names = listed([f"'{each['name']}' ({each['_id']})" for each in best])
            message = f"'{text}' matches {len(best)} items in {self._host}: {names}."
            raise BadUsage(message, hint="Name the folder with --folder, or the item's id with --item.")
        if not best:
            known = found if items is not None else self._search(text[: max(3, len(text) // 2)], "prefix")
            near = near_matches(text, [each["name"] for each in known])
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "List the items: himl dsa list"
            raise NotFound(f"No item in {self._host} has '{text}' in its name.", hint=hint)
        return best[0]

    def item_by_id(self, item_id: str) -> Document:
        try:
            found: Document = self._request("GET", f"item/{item_id}")
        except ServiceFailed as err:
            if not err.is_lasting:
                raise
            raise NotFound(
                f"{self._host} has no item with the id '{item_id}'.", hint="List the ids: himl dsa list"
            ) from err
        return found

    def annotate(self, item: Document, document: Document, *, overwrite: bool) -> tuple[str, str]:
        """Upload the annotation *document* to the item. Returns `uploaded`, `replaced` or `unchanged`, and the
        annotation's id.

        Raises TransferIncomplete if the item has a different annotation of that name. With *overwrite*, himl replaces
        the newest one instead. After a failed request, himl checks whether the upload succeeded before it retries.
        """
        name, digest, outcome = document["name"], document["attributes"][DIGEST], "unchanged"
        query = {"itemId": item["_id"], "name": name, "sort": "updated", "sortdir": -1, "limit": 1}
        attempt = 0
        while True:
            attempt += 1
            old = next(iter(self._request("GET", "annotation", **query)), None)
            attributes = old["annotation"].get("attributes") if old is not None else None
            if old is not None and (attributes or {}).get(DIGEST) == digest and (attempt > 1 or not overwrite):
                return outcome, old["_id"]
            if old is not None and not overwrite:
                raise TransferIncomplete(
                    f"Item '{item['name']}' has a different annotation '{name}'.",
                    hint="Replace it with --overwrite, or choose another name with --name.",
                )
            outcome = "replaced" if old else "uploaded"
            method, route, where = (
                ("PUT", f"annotation/{old['_id']}", {}) if old else ("POST", "annotation", {"itemId": item["_id"]})
            )
            try:
                return outcome, self._request(method, route, json=document, repeats=False, **where)["_id"]
            except ServiceFailed as err:
                if err.is_lasting or attempt == ATTEMPTS:
                    raise

    def _lookup(self, path: str) -> Document:
        try:
            found: Document = self._request("GET", "resource/lookup", path=path)
        except ServiceFailed as err:
            if not err.is_lasting:
                raise
            parent, _, name = path.rpartition("/")
            known = (
                self._children(None if parent == "/collection" else self._lookup(parent)) if parent != "/user" else []
            )
            hint = did_you_mean(name, [each["name"] for _, each in known if "name" in each])
            shown = path.removeprefix("/collection/")
            raise NotFound(
                f"{self._host} has no '{shown}'.", hint=hint or "List the collections: himl dsa list"
            ) from err
        return found

    def _children(self, parent: Document | None) -> list[tuple[str, Document]]:
        """The children of *parent*, each with its type, or the collections of the archive."""
        kind = parent["_modelType"] if parent else ""
        routes: list[tuple[str, dict[str, Any]]] = []
        if parent is None:
            routes.append(("collection", {}))
        elif kind == "item":
            routes.append(("annotation", {"itemId": parent["_id"]}))
        else:
            routes.append(("folder", {"parentType": kind, "parentId": parent["_id"]}))
        if parent and kind == "folder":
            routes.append(("item", {"folderId": parent["_id"]}))
        return [(route, each) for route, query in routes for each in self._request("GET", route, limit=0, **query)]

    def _search(self, text: str, mode: str) -> list[Document]:
        query = {"q": text, "mode": mode, "types": '["item"]', "limit": MOST_FOUND}
        found: list[Document] = self._request("GET", "resource/search", **query)["item"]
        return found


def _absolute(path: str) -> str:
    """*path* as an absolute path of Girder. `COLLECTION/FOLDER` without a leading slash is below `/collection`."""
    plain = path.strip().rstrip("/")
    return plain if plain.startswith("/") else f"/collection/{plain}"


def _best(items: Sequence[Document], text: str) -> list[Document]:
    """The *items* whose names equal *text*, else begin with it and a dot, else contain it, each once."""
    distinct = {each["_id"]: each for each in items}.values()
    rules: tuple[Callable[[str], bool], ...] = (
        text.__eq__,
        lambda name: name.startswith(f"{text}."),
        lambda name: text in name,
    )
    return next(filter(None, ([each for each in distinct if rule(each["name"])] for rule in rules)), [])


def upload_documents(
    archive: SlideArchive,
    documents: Mapping[str, Document],
    problems: Mapping[str, HimlError],
    *,
    folder: str | None,
    item: str | None,
    overwrite: bool,
    notify: Notify,
) -> tuple[list[Document], HimlError | None]:
    """Upload each slide's document to its item in *folder* or in the whole archive. *item* is the name or id of the
    item for a single slide. *problems* are the errors of slides without a document.

    Returns the outcome for each slide, and the resulting error, if any. A slide without an item or with a different
    annotation of that name does not stop the others. Raises the errors of the server.
    """
    if item is not None and len(documents) > 1:
        hint = "Omit --item to find slides by their ids, or choose one with --id_filter."
        raise BadUsage(f"--item needs one slide, but there are {len(documents)}: {named([*documents])}.", hint=hint)
    items = archive.items(folder) if folder else None
    empty: Document = dict.fromkeys(("slide_id", "status", "item", "item_id", "annotation_id", "reason"))
    errors = [*problems.values()]
    rows = [
        {**empty, "slide_id": slide, "elements": 0, "status": "failed", "reason": str(err)}
        for slide, err in problems.items()
    ]
    notify(Counting("slides", len(documents)))
    for slide, document in documents.items():
        row = {**empty, "slide_id": slide, "elements": len(document["elements"])}
        try:
            is_id = item is not None and OBJECT_ID.fullmatch(item)
            found = archive.item_by_id(item or "") if is_id else archive.item(item or slide, items)
            row |= {"item": found["name"], "item_id": found["_id"]}
            row["status"], row["annotation_id"] = archive.annotate(found, document, overwrite=overwrite)
        except (BadUsage, NotFound, TransferIncomplete) as err:
            row |= {"status": "failed", "reason": str(err)}
            errors.append(err)
        rows.append(row)
        notify(Counted())
    if len(rows) == len(errors) == 1:
        return rows, errors[0]
    return rows, incomplete(errors, len(rows)) if errors else None


def incomplete(errors: Sequence[HimlError], count: int) -> TransferIncomplete:
    """The error of *errors* among *count* slides."""
    what = f"{len(errors)} of {count} slides have no new annotation."
    return TransferIncomplete(what, hint=errors[0].hint)
