"""Records as JSON documents and back, by the types of their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from himl_cli.core.json_text import Spelled

Document = dict[str, Any]
Made = TypeVar("Made")


def to_document(record: Any) -> Document:
    """The fields of *record* as values of JSON, including those of the records in it. A number with its spelling
    becomes an object with that text."""
    return {each.name: _to_json(getattr(record, each.name)) for each in fields(record)}


def _to_json(value: Any) -> Any:
    if type(value) is str:  # first, as a job may have many names of files
        return value
    if isinstance(value, Mapping):
        return {name: _to_json(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(each) for each in value]
    if isinstance(value, Spelled):
        return {"spelled": value.text}
    if isinstance(value, (Path, datetime)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    return to_document(value) if is_dataclass(value) else value


def from_document(record: type[Made], document: Document) -> Made:
    """The *record* of `to_document`. Fields of a later version are ignored, and those that are missing have their
    defaults. Raises AttributeError, KeyError, TypeError or ValueError for a document of another form."""
    types = types_of(record)  # type: ignore[arg-type]
    given = [name for name in types if name in document or name in _required(record)]  # type: ignore[arg-type]
    return record(**{name: _from_json(types[name], document[name]) for name in given})


def _from_json(kind: Any, value: Any) -> Any:
    if kind is str and type(value) is str:
        return value
    types = [each for each in get_args(kind) if each is not NoneType]
    if value is None or is_dataclass(kind):
        return value if value is None else from_document(kind, value)
    if get_origin(kind) is Mapping:
        return {name: _from_json(types[1], each) for name, each in value.items()}
    if get_origin(kind) is Sequence:
        return [_from_json(types[0], each) for each in value]
    if len(types) == 1:  # or None
        return _from_json(types[0], value)
    if isinstance(value, dict) and "spelled" in value:
        return Spelled(value["spelled"])
    if kind is datetime:
        return datetime.fromisoformat(value)
    return kind(value) if isinstance(kind, type) and issubclass(kind, (Enum, Path)) else value


def has_type(kind: Any, value: Any) -> bool:
    """Whether *value*, which may be a record, and all that it contains are of the type *kind*, with whole numbers of at
    most 64 bits. For documents from elsewhere, because `from_document` does not check them."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is UnionType:
        return any(has_type(each, value) for each in parts)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            has_type(parts[0], name) and has_type(parts[1], each) for name, each in value.items()
        )
    if origin is Sequence:
        return isinstance(value, (list, tuple)) and all(has_type(parts[0], each) for each in value)
    if is_dataclass(kind):
        types = types_of(kind)  # type: ignore[arg-type]
        is_record = isinstance(value, kind)  # type: ignore[arg-type]
        return is_record and all(has_type(types[name], getattr(value, name)) for name in types)
    if kind in (int, float):
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return is_number and (isinstance(value, float) or -(2**63) <= value < 2**63)
    return isinstance(value, kind)


@cache
def _required(record: Any) -> Set[str]:
    return {each.name for each in fields(record) if each.default is MISSING and each.default_factory is MISSING}


@cache
def types_of(record: Any) -> Mapping[str, Any]:
    """The types of the fields of *record* by name."""
    types = get_type_hints(record)
    return {each.name: types[each.name] for each in fields(record)}
