"""Errors that speak to the person who typed the input: what was given, what was expected, the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An input that cannot be used. The message names the input, what was expected and the nearest valid choice."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice closest to `word`, or the empty string when nothing is close (difflib ratio below 0.4)."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.4)
    return found[0] if found else ""


def unknown(kind: str, word: str, choices: Iterable[str]) -> UserError:
    """A UserError for a name that is not in a table: `unknown("system", "dcgna", [...])`."""
    options = sorted(choices)
    near = nearest(word, options)
    hint = f"; did you mean {near!r}?" if near else "."
    return UserError(f"unknown {kind} {word!r}{hint} Choices: {', '.join(options)}.")
