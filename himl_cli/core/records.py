"""The `dataclass` of the standard library, which compiles the methods of a class when the class is first used.

Python takes half a millisecond to compile them. A command imports a hundred dataclasses and uses a few.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

FIELDS, SIGNATURE = "__dataclass_fields__", "__signature__"

_lock = threading.RLock()


class _Pending:
    """The attribute *name* of a class that is not a dataclass yet. Reading it makes the class one."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name = name
        self._options = options

    def __get__(self, instance: object, owner: type) -> Any:
        with _lock:
            cls: Any = next((each for each in owner.__mro__ if each.__dict__.get(self._name) is self), None)
            if cls is not None:  # another thread has not done it
                delattr(cls, SIGNATURE)
                cls.__doc__ = cls.__doc__ or cls.__name__  # Python would derive it from the signature
                dataclasses.dataclass(**self._options, init=False)(cls)
                namespace = {name: getattr(cls, name) for name in ("__doc__", "__module__", "__qualname__")}
                only_init = {"frozen": self._options.get("frozen", False)}
                only_init |= dict.fromkeys(("repr", "eq", "match_args"), False)
                # Another thread may construct an object at any time. Until a subclass with the same fields has the
                # compiled constructor, the class keeps the one that waits for the lock
                cls.__init__ = dataclasses.dataclass(**only_init)(type(cls)(cls.__name__, (cls,), namespace)).__init__
                delattr(cls, "__setstate__")
        return getattr(owner, self._name)


def _lazy_dataclass(**options: Any) -> Callable[[Any], Any]:
    if options.get("slots"):  # for which Python creates another class
        return dataclasses.dataclass(**options)

    def decorate(cls: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            with _lock:
                dataclasses.fields(cls)
            cls.__init__(self, *args, **kwargs)

        def set_state(self: Any, state: dict[str, Any]) -> None:  # for pickle and copy, which do not call __init__
            with _lock:
                dataclasses.fields(cls)
            self.__dict__.update(state)

        for name in (FIELDS, SIGNATURE):
            setattr(cls, name, _Pending(name, options))
        cls.__init__ = init
        cls.__setstate__ = set_state
        return cls

    return decorate


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    dataclass = _lazy_dataclass
