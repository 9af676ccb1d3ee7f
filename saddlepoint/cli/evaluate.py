"""`saddlepoint evaluate`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saddlepoint.cli.forms import Switch, parse
from saddlepoint.cli.terminal import BOLD, DIM, amount, duration, styled, table
from saddlepoint.errors import UserError

if TYPE_CHECKING:
    from saddlepoint.metrics.evaluation import Evaluation


@dataclass(frozen=True)
class Evaluate:
    """Score samples of runs, or images in folders and zips, against real images.

    Every score stands with its standard error and its floor: the same number for real images that are not in the
    reference. Its record (extractor, resize, counts, seed, reference) goes into the JSON; scores with other records
    refuse to be compared. Metrics: fd, kd, pr (precision, recall), dc (density, coverage), is, fd-infinity, cmmd,
    swd, ms-ssim, c2st, labels (gan-train, gan-test), memorisation, ppl; modes (and w1) for toy runs.

    Runs that translate are scored on the held-out pairs of their data, or on the pairs that --against names: l1, psnr
    and ssim to the true partners, and of label maps miou and accuracy (pixels whose class a segmenter finds), beside
    what the input itself and another picture's partner would get.
    """

    judged: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN|FOLDER|ZIP")]
    """What is scored: run folders, folders or zips of images, or names of sets."""
    against: str = ""
    """Real images: a set's name, a folder or a zip; without it the data of the run."""
    metrics: tuple[str, ...] = ("fd", "kd", "pr", "dc")
    """Which numbers."""
    features: str = "auto"
    """The extractor; auto takes the best that needs no download for these data. See docs/how-to/features.md."""
    weights: str = ""
    """Weight file of extractors whose weights are not in a package."""
    n: Annotated[int, tyro.conf.arg(aliases=["--samples"])] = 0
    """Samples; 0 takes 5,000, or half of the real images where they are fewer. Under torchrun, which takes --n for the
    beginning of a flag of its own, say --samples.
    """
    reference: int = 0
    """Real images in the reference; 0 takes all but those of the floor."""
    seed: int = 0
    """Decides which samples and which real images."""
    checkpoint: str = ""
    """Kimg of the runs' checkpoint, or best; without it the newest."""
    live: Switch = False
    """Judge the weights that training goes on from, not their running average."""
    truncation: float = 1.0
    """psi of systems that have one."""
    resolution: str = ""
    """Side, or height x width, that folders of images of several sizes are brought to."""
    no_floor: Switch = False
    """Leave real against real out."""
    device: str = "auto"
    """Where to compute: cpu, cuda, mps or auto."""
    json: Switch = False
    """Print JSON instead of a table."""
    out: str = ""
    """Write the JSON to this file as well."""
    quiet: Switch = False
    """No progress on standard error."""


def evaluate(argv: list[str]) -> int:
    """Score and print."""
    chosen = parse(Evaluate, argv, prog="saddlepoint evaluate")
    _refuse(chosen)
    from saddlepoint import distributed
    from saddlepoint.api import choose_device
    from saddlepoint.metrics.scoring import score

    with distributed.session(choose_device(chosen.device)) as device:
        found = [
            score(
                judged,
                chosen.against,
                chosen.metrics,
                features=chosen.features,
                weights=chosen.weights or None,
                n=chosen.n,
                reference=chosen.reference,
                seed=chosen.seed,
                checkpoint=chosen.checkpoint,
                averaged=not chosen.live,
                controls={} if chosen.truncation == 1.0 else {"truncation": chosen.truncation},
                resolution=chosen.resolution,
                floor=not chosen.no_floor,
                device=device,
                progress=None if chosen.quiet else Telling(),
            )
            for judged in chosen.judged
        ]
    plain: Any = [evaluation.as_dict() for evaluation in found]
    text = json.dumps(plain[0] if len(plain) == 1 else plain, indent=2, allow_nan=False)
    if chosen.out:
        from saddlepoint.runs import write_bytes

        write_bytes(Path(chosen.out).expanduser(), (text + "\n").encode())
    print(text if chosen.json else shown(found))
    return 0


def _refuse(chosen: Evaluate) -> None:
    """What can be said before torch is imported."""
    if not chosen.judged:
        raise UserError("saddlepoint evaluate needs RUN|FOLDER|ZIP; see saddlepoint evaluate --help")
    for name, value in (("n", chosen.n), ("reference", chosen.reference)):
        if value < 0:
            raise UserError(f"--{name} is {value}; expected 0 (automatic) or more.")
    if not chosen.metrics:
        raise UserError("--metrics takes at least one name; see saddlepoint evaluate --help")
    out = Path(chosen.out).expanduser()
    if chosen.out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out {chosen.out!r} must be a file in a folder that exists.")


def shown(found: list[Evaluation]) -> str:
    """A table of all that was judged, with the floor below and the record under it."""
    from saddlepoint.metrics.scores import from_dict
    from saddlepoint.metrics.scores import table as lines

    names = [e.judged for e in found]
    rows = {f"{e.judged} ({i + 1})" if names.count(e.judged) > 1 else e.judged: e.scores for i, e in enumerate(found)}
    for name, baseline in found[0].extra.get("baselines", {}).items():  # of translators, whose data are the same
        rows[name] = {metric: from_dict(values) for metric, values in baseline.items()}
    cells = lines(rows)
    cells[0] = [styled(cell, BOLD) for cell in cells[0]]
    record = found[0].record
    counts = amount(record["samples"], "sample")
    about = [f"{counts} against {record['reference']}"]
    if "extractor_identity" in record:
        about.append(f"features {record['extractor_identity']}, resize {record.get('resize', '?')}")
    about += [f"seed {record['seed']}", f"{duration(sum(e.seconds for e in found))}", "± is one standard error"]
    return f"{table(cells)}\n\n  {styled('; '.join(about), DIM)}"


class Telling:
    """Progress on standard error: one line that is written over on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.what, self.started, self.told = "", 0.0, 0.0

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.perf_counter()
        if what != self.what:
            self.what, self.started, self.told = what, now, now
        if now - self.told < (0.2 if self.live else 10) and not (done >= of and self.live):
            return
        self.told = now
        left = (now - self.started) * (of - done) / max(done, 1)
        text = f"{what}: {done:,} of {of:,}" + (f", {duration(left)} left" if done < of else "")
        if self.live:
            print(f"\r\x1b[K{text}" if done < of else "\r\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)
