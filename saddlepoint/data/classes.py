"""Some classes of a labelled set by name: "openmoji@smileys-emotion", "fashion-mnist@Trouser,Bag:test"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saddlepoint.errors import UserError, nearest

from .files import Source

_SPEC = re.compile(r"(?P<set>.+)@(?P<classes>[^@:]+)(?P<split>:(?:train|test|all))?", re.DOTALL)


def chosen_classes(spec: str) -> tuple[str, tuple[str, ...]] | None:
    """(the whole set, the names after the @), or None when `spec` chooses none; an existing path is never taken apart.

    >>> chosen_classes("fashion-mnist@Trouser,Bag:test")
    ('fashion-mnist:test', ('Trouser', 'Bag'))
    """
    match = _SPEC.fullmatch(spec)
    if match is None or Path(spec).expanduser().exists():
        return None
    names = tuple(dict.fromkeys(name.strip() for name in match["classes"].split(",") if name.strip()))
    return (match["set"] + (match["split"] or ""), names) if names else None


def pick(source: Source, chosen: Sequence[str], spec: str) -> Source:
    """The images of the chosen classes, numbered anew in the order given; of one class: without labels.

    A class is named as the set names it, or by its number. Raises UserError for a set without labels and a class that
    it has not.
    """
    if source.labels is None:
        raise UserError(f"{spec!r} has no classes to choose {', '.join(map(repr, chosen))} from.")
    names = list(source.facts.label_names) or [str(label) for label in range(max(source.labels, default=-1) + 1)]
    numbers: dict[int, int] = {}
    for name in chosen:
        known = name if name in names else names[int(name)] if name.isdecimal() and int(name) < len(names) else None
        if known is None:
            near = nearest(name, names)
            hint = f"; did you mean {near!r}?" if near else "."
            raise UserError(f"{spec!r} has no class {name!r}{hint} Classes: {', '.join(names)}.")
        numbers.setdefault(names.index(known), len(numbers))
    kept = [index for index, label in enumerate(source.labels) if label in numbers]
    several = len(numbers) > 1
    labels = [numbers[source.labels[index]] for index in kept] if several else None
    label_names = tuple(names[number] for number in numbers) if several else ()

    def of(values: Any) -> Any:
        return None if values is None else [values[index] for index in kept]

    facts = replace(source.facts, count=len(kept), classes=len(label_names), label_names=label_names)
    return replace(
        source, facts=facts, names=of(source.names), read=lambda index: source.read(kept[index]), labels=labels,
        captions=of(source.captions), tags=of(source.tags),
    )  # fmt: skip
