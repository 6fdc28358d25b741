"""The `dataclass` of the standard library, which compiles the methods of a class when they are needed.

Python takes about a millisecond to compile them. A command imports two hundred dataclasses, makes a few objects of
twenty of them, and compares or prints hardly any. So a constructor is compiled once it has made a FEW objects, and the
other methods at the first call of one of them.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

FIELDS, SIGNATURE = "__dataclass_fields__", "__signature__"
FEW = 20  # objects, which take less time without a compiled constructor
ORDER = ("__lt__", "__le__", "__gt__", "__ge__")

_lock = threading.RLock()


class _Pending:
    """The attribute *name* of a class that is not complete yet. Reading it calls *complete*, which replaces it."""

    def __init__(self, name: str, complete: Callable[[], object]) -> None:
        self._name = name
        self._complete = complete

    def __get__(self, instance: object, owner: type) -> Any:
        with _lock:
            if any(each.__dict__.get(self._name) is self for each in owner.__mro__):  # else another thread was first
                self._complete()
        return getattr(owner, self._name)


def _lazy_dataclass(**options: Any) -> Callable[[Any], Any]:
    if options.get("slots"):  # for which Python creates another class
        return dataclasses.dataclass(**options)
    return lambda cls: _LazyDataclass(cls, options).cls


class _LazyDataclass:
    """The class *cls* with the *options* of a dataclass, which gets methods that are not compiled."""

    def __init__(self, cls: Any, options: dict[str, Any]) -> None:
        self.cls, self._options = cls, options
        self._left = FEW
        is_frozen, has_equality = options.get("frozen", False), options.get("eq", True)
        names = ["__repr__", *["__eq__"] * has_equality, *(ORDER if options.get("order") else ())]
        own = cls.__dict__
        if has_equality and own.get("__hash__") is None:
            cls.__hash__ = None
            names += ["__hash__"] * is_frozen
        self._methods = {name: self._compiling(name) for name in names if own.get(name) is None}
        self._methods["__init__"] = self._constructor()
        for name, method in self._methods.items():
            setattr(cls, name, method)
        if is_frozen:
            cls.__setattr__, cls.__delattr__ = self._refusing("__setattr__"), self._refusing("__delattr__")
        setattr(cls, FIELDS, _Pending(FIELDS, self._read_fields))
        setattr(cls, SIGNATURE, _Pending(SIGNATURE, self._compile))

    def _read_fields(self) -> None:
        self.cls.__doc__ = self.cls.__doc__ or self.cls.__name__  # Python would derive it from the signature
        keyword = {"kw_only": self._options.get("kw_only", False)}
        dataclasses.dataclass(init=False, repr=False, eq=False, **keyword)(self.cls)

    def _compile(self) -> None:
        """Replace the methods by those of a dataclass with the same fields."""
        cls = self.cls
        with _lock:
            if cls.__dict__["__init__"] is not self._methods["__init__"]:
                return
            fields = {each.name: each for each in dataclasses.fields(cls)}
            namespace = {name: getattr(cls, name) for name in ("__doc__", "__module__", "__qualname__")}
            namespace |= fields | {"__annotations__": {name: each.type for name, each in fields.items()}}
            if hasattr(cls, "__post_init__"):
                namespace["__post_init__"] = cls.__post_init__
            twin: Any = dataclasses.dataclass(**self._options)(type(cls.__name__, (), namespace))
            for name in self._methods:  # the constructor last
                setattr(cls, name, twin.__dict__[name])
            delattr(cls, SIGNATURE)

    def _compiling(self, name: str) -> Callable[..., Any]:
        def call(record: Any, *others: Any) -> Any:
            self._compile()
            return getattr(self.cls, name)(record, *others)

        return call

    def _constructor(self) -> Callable[..., None]:
        def init(record: Any, /, *args: Any, **kwargs: Any) -> None:
            self._left -= 1
            if self._left < 0 or not self._fill(record, args, kwargs):
                self._compile()
                self.cls.__init__(record, *args, **kwargs)  # also for the error of a call that lacks an argument
            elif hasattr(record, "__post_init__"):
                record.__post_init__()

        return init

    def _fill(self, record: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Set the fields of *record*. False for wrong arguments."""
        fields, state = dataclasses.fields(self.cls), record.__dict__
        positional = [each.name for each in fields if each.init and not each.kw_only]
        values = dict(zip(positional, args, strict=False))
        taken = {each.name for each in fields if each.init} - values.keys()
        if len(args) > len(positional) or not taken.issuperset(kwargs):
            return False
        values |= kwargs
        for each in fields:
            if each.name in values:
                state[each.name] = values[each.name]
            elif each.default_factory is not dataclasses.MISSING:
                state[each.name] = each.default_factory()
            elif each.init and each.default is dataclasses.MISSING:
                return False
            elif each.init:
                state[each.name] = each.default
        return True

    def _refusing(self, method: str) -> Callable[..., None]:
        verb = "assign to" if method == "__setattr__" else "delete"

        def refuse(record: Any, name: str, *value: Any) -> None:
            if type(record) is self.cls or any(each.name == name for each in dataclasses.fields(self.cls)):
                raise dataclasses.FrozenInstanceError(f"cannot {verb} field {name!r}")
            getattr(super(self.cls, record), method)(name, *value)

        return refuse


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    dataclass = _lazy_dataclass
