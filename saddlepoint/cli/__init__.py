"""The command. It parses and prints; what it does is a public function of the library each time.

One table: a command's name -> what it does in a few words, and the function that does it ("module:function", imported
when it is called, so that help answers at once). A name of two words belongs to a group: `saddlepoint data build`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from saddlepoint.cli.terminal import BOLD, chief, fail, first_here, styled, table
from saddlepoint.errors import UserError, unknown

USAGE, FAILED_ROUND, INTERRUPTED = 2, 3, 130  # exit statuses besides 0


class Command(NamedTuple):
    """A line of the help, and the function: words after the command's name -> exit status."""

    summary: str
    target: str


COMMANDS: dict[str, Command] = {
    "train": Command("train a system on images, into a run folder", "saddlepoint.cli.train:train"),
    "resume": Command("go on with a run from its newest checkpoint", "saddlepoint.cli.train:resume"),
    "sample": Command("draw samples from a run: a grid, single files or an array", "saddlepoint.cli.sample:sample"),
    "translate": Command("pictures or label maps of any size through a run", "saddlepoint.cli.translate:translate"),
    "paint": Command("change a label map and see what a run makes of it", "saddlepoint.cli.paint:paint"),
    "edit": Command("truncate, mix, interpolate, project and move along directions", "saddlepoint.cli.edit:edit"),
    "evaluate": Command("score runs and folders of images against real ones", "saddlepoint.cli.evaluate:evaluate"),
    "import": Command("make a run of published weights; runs nothing in them", "saddlepoint.cli.exchange:import_"),
    "export": Command("write a run as safetensors, ONNX or with official names", "saddlepoint.cli.exchange:export"),
    "report": Command("say how a run is doing, and write its report.html anew", "saddlepoint.cli.show:report"),
    "list": Command("systems, presets and data sets", "saddlepoint.cli.show:listing"),
    "analyse": Command("spectrum, stable steps and rotation along a run's checkpoints", "saddlepoint.cli.lab:analyse"),
    "figures": Command("the theory's pictures, computed anew, and their gallery", "saddlepoint.cli.lab:figures"),
    "data build": Command("build a zip of images in one shape from a set, folder or zip", "saddlepoint.cli.data:build"),
    "data inspect": Command("count and check the images of a set, folder or zip", "saddlepoint.cli.data:inspect"),
}
EXAMPLES = """\
  saddlepoint train dcgan --data digits --kimg 100 --out runs/first
  saddlepoint sample runs/first --n 16 --seed 0 --out grid.png
  saddlepoint train dcgan --data photos/ --resolution 64 --dry-run
  torchrun --standalone --nproc-per-node 2 -m saddlepoint train dcgan --data digits"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 2 (the input cannot be used), 3 (a round was not finite), 130
    (interrupted).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _silence():
            status = _run(words)
        sys.stdout.flush()  # here a closed pipe can still be answered; at the interpreter's exit it is an error
        return status
    except SystemExit as stop:  # tyro's --help
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        _tell(error)
        return USAGE
    except ArithmeticError as error:
        engine = sys.modules.get("saddlepoint.engine")
        if engine is None or not isinstance(error, engine.NonFiniteError):
            raise
        _tell(error)
        return FAILED_ROUND
    except KeyboardInterrupt:
        if first_here():
            fail("interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # `saddlepoint list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _silence() -> contextlib.AbstractContextManager[object]:
    """Of several processes, only the first prints."""
    stack = contextlib.ExitStack()
    if not chief():
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def _tell(error: Exception) -> None:
    if first_here():
        fail(" ".join([str(error), *getattr(error, "__notes__", [])]))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else USAGE
    if words[0] in ("-V", "--version"):
        import saddlepoint

        print(f"saddlepoint {saddlepoint.__version__}")
        return 0
    return resolve(words)


def resolve(words: list[str]) -> int:
    """Find the command that the words begin with and call it with the rest."""
    for length in (2, 1):
        command = COMMANDS.get(" ".join(words[:length]))
        if command is not None:
            module, _, name = command.target.partition(":")
            function: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
            return function(words[length:])
    inside = [name for name in COMMANDS if name.startswith(words[0] + " ")]
    if not inside:
        if words[0].startswith("-"):
            raise unknown("flag", words[0], ["--help", "--version"])
        raise unknown("command", words[0], {name.partition(" ")[0] for name in COMMANDS})
    if len(words) > 1 and words[1] not in ("-h", "--help"):
        raise unknown(f"command of {words[0]}", words[1], [name.partition(" ")[2] for name in inside])
    print(f"usage: saddlepoint {words[0]} COMMAND ...\n\n{_summaries(inside)}")
    return 0 if len(words) > 1 else USAGE


def _summaries(names: Sequence[str]) -> str:
    return table([[styled(name, BOLD), COMMANDS[name].summary] for name in names])


def overview() -> str:
    """`saddlepoint --help`."""
    import saddlepoint

    return (
        f"saddlepoint {saddlepoint.__version__}: generative adversarial networks as games\n\n"
        f"usage: saddlepoint COMMAND ...\n\n{_summaries(list(COMMANDS))}\n\n"
        f"{styled('examples', BOLD)}\n{EXAMPLES}\n\n"
        "saddlepoint COMMAND --help shows a command's flags, saddlepoint train SYSTEM --help all settings of a system."
    )
