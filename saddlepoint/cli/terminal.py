"""What the command prints: plain text, a little colour on terminals, and only from the first process."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

BOLD, DIM, RED, CYAN = "1", "2", "31", "36"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def chief() -> bool:
    """Is this the first of the processes that torchrun started (or the only one)?"""
    return os.environ.get("RANK", "0") == "0"


def first_here() -> bool:
    """Is this the first process of its machine? It tells what is wrong there: a disk, a missing folder."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """`text` in a style where the stream (default: standard output) is a terminal that can show it."""
    stream = stream or sys.stdout
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain or not text else f"\x1b[{style}m{text}\x1b[0m"


def fail(message: str) -> None:
    """One red line on standard error, however many lines the message had."""
    line = " ".join(message.split())
    print(styled(f"saddlepoint: {line}", RED, sys.stderr), file=sys.stderr, flush=True)


def width() -> int:
    return max(50, min(120, shutil.get_terminal_size((100, 24)).columns))


def table(rows: Sequence[Sequence[str]], indent: int = 2, gap: int = 2) -> str:
    """Rows as aligned columns; the last column wraps at the terminal's edge."""
    plain = [[ESCAPES.sub("", cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*(row[:-1] for row in plain), strict=True)]
    start = indent + sum(w + gap for w in widths)
    lines = []
    for row, bare in zip(rows, plain, strict=True):
        head = "".join(
            cell + " " * (w - len(text) + gap) for cell, text, w in zip(row[:-1], bare[:-1], widths, strict=True)
        )
        wrapped = textwrap.wrap(row[-1], max(30, width() - start)) or [""]
        lines.append((" " * indent + head + wrapped[0]).rstrip())
        lines += [" " * start + line for line in wrapped[1:]]
    return "\n".join(lines)


def amount(count: float, noun: str) -> str:
    """1 round, 2,000 rounds."""
    return f"{count:,.0f} {noun}{'' if round(count) == 1 else 's'}"


def duration(seconds: float) -> str:
    """12 s, 5 min 3 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
