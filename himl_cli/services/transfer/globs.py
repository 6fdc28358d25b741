"""Globs over the names of a store, matched one sign after the other, in a time that no glob makes long.

What a glob is made of is a list of tokens; where it stands in a name is a set of places in that list. Each such set is
made once and remembers where every sign leads, so that a name costs one step a sign.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from himl_cli.core.errors import BadUsage

MOST_STEPS = 100_000
"""So many steps are remembered; then all are forgotten."""


class Token(Enum):
    """What takes more than one sign, or none. `until_slash` takes any signs and a slash at their end; `maybe` leaves
    the token after it out, or not."""

    within = "*"
    across = "**"
    maybe = "**/?"
    until_slash = "**/"
    end = ""


Sign = Callable[[str], bool]
"""Whether one sign fits."""


class Globs:
    """Any of *globs*, as `Filters` describes them, over whole names. Raises BadUsage for one that cannot be read."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._tokens: list[Token | Sign] = []
        starts = set()
        for glob in globs:
            starts |= {len(self._tokens)}
            self._tokens += [*_tokens(glob), Token.end]
        self._starts = self._with_skipped(starts)
        self._forget()

    def matches(self, name: str) -> bool:
        if self._steps > MOST_STEPS:
            self._forget()
        state = self._first
        for sign in name:
            state = state[sign]
        return state.is_match

    def _forget(self) -> None:
        self._steps = 0
        self._states: dict[frozenset[int], _State] = {}
        self._first = self._state(self._starts)

    def _state(self, places: frozenset[int]) -> _State:
        known = self._states.get(places)
        if known is None:
            is_match = any(self._tokens[place] is Token.end for place in places)
            known = self._states[places] = _State(places, is_match, self._after)
        return known

    def _after(self, places: frozenset[int], sign: str) -> _State:
        """Where one that is at *places* is after *sign*."""
        self._steps += 1
        reached: set[int] = set()
        for place in places:
            token = self._tokens[place]
            if not isinstance(token, Token):
                reached |= {place + 1} if token(sign) else set()
            elif token is Token.across or (token is Token.within and sign != "/"):
                reached.add(place)
            elif token is Token.until_slash:
                reached |= {place, place + 1} if sign == "/" else {place}
        return self._state(self._with_skipped(reached))

    def _with_skipped(self, places: set[int]) -> frozenset[int]:
        """*places*, and those behind tokens that need not take a sign."""
        reached: set[int] = set()
        waiting = list(places)
        while waiting:
            place = waiting.pop()
            if place not in reached:
                reached.add(place)
                token = self._tokens[place]
                waiting += (
                    [place + 1]
                    if token in (Token.within, Token.across)
                    else [place + 1, place + 2]
                    if token is Token.maybe
                    else []
                )
        return frozenset(reached)


class _State(dict[str, "_State"]):
    """A set of places; by a sign, the one that comes after it."""

    def __init__(self, places: frozenset[int], is_match: bool, after: Callable[[frozenset[int], str], _State]) -> None:
        super().__init__()
        self.is_match = is_match
        self._places, self._after = places, after

    def __missing__(self, sign: str) -> _State:
        found = self[sign] = self._after(self._places, sign)
        return found


def _tokens(glob: str) -> Iterator[Token | Sign]:
    body = glob[1:] if glob.startswith("/") else glob
    if not glob.startswith("/"):
        yield from (Token.maybe, Token.until_slash)
    if body.endswith("/"):
        body += "**"
    place = 0
    while place < len(body):
        if body.startswith("**/", place):
            yield from (Token.maybe, Token.until_slash)
            place += 3
        elif body.startswith("**", place):
            yield Token.across
            place += 2
        elif body[place] == "*":
            yield Token.within
            place += 1
        else:
            sign, place = _sign(glob, body, place)
            yield sign


def _sign(glob: str, body: str, place: int) -> tuple[Sign, int]:
    """What takes the one sign at *place*, and the place after it."""
    if body[place] == "?":
        return lambda sign: sign != "/", place + 1
    end = body.find("]", place + 2) if body[place] == "[" else -1
    if end < 0:
        return body[place].__eq__, place + 1
    inside = body[place + 1 : end]
    negated = inside[0] in "!^" and len(inside) > 1
    try:
        fits = re.compile(f"(?!/)[{'^' if negated else ''}{_escaped_set(inside[negated:])}]", re.DOTALL).match
    except re.error as err:
        raise BadUsage(f"Not a glob: {glob} ({err.msg}).", hint="A set of characters reads [a-c].") from err
    return lambda sign: fits(sign) is not None, end + 1


def _escaped_set(inside: str) -> str:
    """The characters and ranges of a set, with nothing in it that means more to a regular expression."""
    made, place = "", 0
    while place < len(inside):
        if inside[place + 1 : place + 2] == "-" and place + 2 < len(inside):
            made += f"{re.escape(inside[place])}-{re.escape(inside[place + 2])}"
            place += 3
        else:
            made += re.escape(inside[place])
            place += 1
    return made
