"""What a run's own records say about it: is it stable, has it collapsed, saturated, overfitted, does it still improve?

Pure functions from evidence to findings: no file is opened and nothing is trained here; `saddlepoint.evidence` gathers.
Each finding names the numbers it rests on, with the moment they were logged; where there are none, it says so. The
thresholds are plain constants with a reason beside each: they are conventions, chosen so that trainings known to be
good pass and trainings broken on purpose do not (see the tests).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["good", "watch", "bad", "unknown"]

TICKS = 8  # lines of the log that a judgement needs: two in each quarter
ALIKE = 0.35  # spread of samples over that of real images below which a run has collapsed; good ones end above 0.7
NARROW = 0.65  # ... below which something is missing
WILD = 1.2  # ... above which the samples are no images of this kind yet; good runs end below 1.06
REPEATED = 0.25  # share of samples that are near copies of others from which something is missing
WON = 0.05  # D's loss over its loss when undecided: below, it tells every image
FLAT = 0.1  # the same for a minimax generator, whose gradient vanishes with its loss
UNDECIDED = 0.01  # both losses this close to the values of a discriminator that cannot tell
VANISHED = 1e-3  # the generator's gradient against its own first quarter
NOTHING = 1e-6  # a gradient norm that no float32 training makes progress with
EXPLODED = 10.0  # the generator's gradient against its first quarter; growing networks reach 4
EXPLODED_D = 30.0  # the discriminator's, which grows tenfold in good runs
AT_CLIP = 0.5  # share of a critic's weights on the bound; a good clipped run has 0.04
SURE = 0.1  # r_t above its target by this: the augmentation does not hold it
GAP = 0.5  # r_v, of (train - held out) / (train - fake): 0 for none, 1 for learned by heart
SOME_GAP = 0.2
COPIES = -3.0  # C_T, a z-score
NOISE = 2.0  # standard errors that a change must exceed


@dataclass(frozen=True)
class Fact:
    """Something that was logged: name, value, when, and how a reader is told."""

    what: str
    value: float
    kimg: float
    text: str


@dataclass(frozen=True)
class Finding:
    """The answer to one question: a verdict in a word or two, a sentence, its evidence, and what to try next."""

    question: str
    verdict: str
    level: Level
    says: str
    evidence: tuple[Fact, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variety:
    """How different the stored samples of one moment are, beside real images of the same count.

    spread: mean distance between two samples over that between two real images. nearest: the same for the median
    distance to the nearest other one. repeated: share of samples whose nearest other one is nearer than a quarter of
    what only 5 in 100 real images have. change: mean change of the samples since the grid before, over the real spread.
    """

    kimg: float
    spread: float
    nearest: float
    repeated: float
    change: float = math.nan


@dataclass(frozen=True)
class Measured:
    """One score of one moment. key: how it was measured; only equal keys may be compared."""

    kimg: float
    metric: str
    name: str
    value: float
    error: float = math.nan
    floor: float = math.nan
    better: str = "lower"
    key: str = ""


@dataclass(frozen=True)
class HeldOut:
    """D's logits at the newest checkpoint: mean on training, held-out and generated images; mean signs of the first
    two; the standard error of the gap between them.
    """

    kimg: float
    images: int
    train: float
    held_out: float
    fake: float
    train_sign: float
    held_out_sign: float
    error: float

    @property
    def ratio(self) -> float:
        """r_v = (E D(train) - E D(held out)) / (E D(train) - E D(fake)) (arXiv:2006.06676, eq. 1)."""
        below = self.train - self.fake
        return (self.train - self.held_out) / below if below else math.nan


@dataclass(frozen=True)
class Evidence:
    """Everything that the findings rest on; what is not there stays empty.

    undecided: the adversarial losses (discriminator, generator) of a discriminator that cannot tell. gamma: what is
    suggested for R1, in words. clip: bound of the critic's weights; at_clip: share of them on it.
    """

    kimg: float = 0.0
    goal: float = 0.0
    objective: str = ""
    log: Sequence[Mapping[str, Any]] = ()
    undecided: tuple[float | None, float | None] = (None, None)
    pictures: tuple[Variety, ...] = ()
    scores: tuple[Measured, ...] = ()
    augment_target: float = 0.0
    r1: float = 0.0
    gamma: str = ""
    clip: float = 0.0
    at_clip: float | None = None
    failure: str = ""
    held_out: HeldOut | None = None
    spectrum: Mapping[str, Any] | None = None


def diagnose(evidence: Evidence) -> list[Finding]:
    """All findings, in the order in which a reader needs them; the spectrum only where it was computed."""
    questions: list[Callable[[Evidence], Finding]] = [stability, variety, balance, overfitting, progress]
    found = [ask(evidence) for ask in questions]
    return [*found, local(evidence.spectrum)] if evidence.spectrum else found


# ---- reading the log
def series(evidence: Evidence, name: str) -> list[tuple[float, float]]:
    """(kimg, value) of one column."""
    return [(float(line["kimg"]), float(line[name])) for line in evidence.log if name in line]


def quarter(points: Sequence[tuple[float, float]], which: int) -> tuple[float, float]:
    """(median, kimg of its last line) of the first (0) to last (3) quarter."""
    length = max(1, len(points) // 4)
    part = points[which * length : (which + 1) * length] if which < 3 else points[-length:]
    return statistics.median(value for _, value in part), part[-1][0]


def player(evidence: Evidence, generator: bool) -> str:
    """The name of the generator, or of the player that judges it; empty where the log has no such term."""
    names = dict.fromkeys(name.partition("/")[0] for line in evidence.log for name in line if _adversarial(name))
    chosen = [name for name in names if name.startswith("generator") == generator]
    return chosen[0] if chosen else ""


def _adversarial(name: str) -> bool:
    return name.partition("/")[2] in ("gan", "wasserstein")


def losses(evidence: Evidence, generator: bool) -> list[tuple[float, float]]:
    who = player(evidence, generator)
    return series(evidence, f"{who}/gan") or series(evidence, f"{who}/wasserstein")


def _unknown(question: str, why: str, *advice: str) -> Finding:
    return Finding(question, "not enough evidence", "unknown", why, (), advice)


def _short(evidence: Evidence) -> str:
    lines = len(evidence.log)
    return "" if lines >= TICKS else f"The log has {lines} lines; {TICKS} are needed."


# ---- is it stable?
def stability(evidence: Evidence) -> Finding:
    """A round that was not finite, losses that are not numbers, gradients that grow without bound."""
    question = "Is it stable?"
    if evidence.failure:
        fact = Fact("failure", math.nan, evidence.kimg, evidence.failure)
        return Finding(question, "stopped", "bad", "A round was not finite, so the run stopped there.", (fact,), _CALM)
    wild = [
        Fact(name, value, kimg, f"{name} is {value} at {kimg:g} kimg")
        for line in evidence.log
        for name, value in line.items()
        if isinstance(value, float) and not math.isfinite(value)
        for kimg in [float(line["kimg"])]
    ]
    if wild:
        return Finding(question, "stopped", "bad", "The log holds values that are not finite.", tuple(wild[:3]), _CALM)
    if why := _short(evidence):
        return _unknown(question, why)
    facts, grown = [], False
    for generator in (True, False):
        name = f"gradient_norm.{player(evidence, generator)}"
        points = series(evidence, name)
        if len(points) < TICKS:
            continue
        (first, then), (last, now) = quarter(points, 0), quarter(points, 3)
        limit = EXPLODED if generator else EXPLODED_D
        grown = grown or last > limit * first > 0
        text = f"{name}: median {first:.3g} in the first quarter (to {then:g} kimg), {last:.3g} in the last"
        facts.append(Fact(name, last / first if first else math.inf if last else 1.0, now, text))
    if not facts:
        return _unknown(question, "The log has no gradient norms.")
    if grown:
        says = "A gradient norm keeps growing: rounds that are not finite may follow."
        return Finding(question, "blowing up", "bad", says, tuple(facts), _CALM)
    return Finding(question, "stable", "good", "Losses are finite and gradient norms are bounded.", tuple(facts))


_CALM = (
    "lower the learning rates (--g.lr, --d.lr) by 2 to 10",
    "add R1 (--penalty.r1; `train ... --dry-run` suggests a strength), or go back to an earlier checkpoint",
    "with bf16, try --precision fp32; with weight clipping, a smaller --clip",
)


# ---- has it collapsed?
def variety(evidence: Evidence) -> Finding:
    """Collapse: samples that are alike. From the stored grids, and from coverage, recall or modes where measured."""
    question = "Has it collapsed?"
    facts = [*_spread_facts(evidence.pictures), *(fact for fact, _ in _coverage(evidence))]
    if not facts:
        why = "There are neither two grids of samples to compare nor scores of variety."
        return _unknown(question, why, "saddlepoint evaluate RUN (coverage and recall speak of variety)")
    collapse = _collapse(question, evidence.pictures, tuple(facts))
    if collapse is not None:
        return collapse
    shares = [share for _, share in _coverage(evidence)]
    newest = evidence.pictures[-1] if evidence.pictures else None
    narrow = newest is not None and (newest.spread < NARROW or newest.repeated > REPEATED)
    if narrow:
        says = "Samples differ less than real images do, or repeat each other."
        return Finding(question, "in part", "watch", says, tuple(facts), (_GO_ON, *_WIDEN))
    if shares and min(shares) < 0.5:
        says = "Samples differ, but a part of the data has no sample near it: it is missed, or not good enough yet."
        return Finding(question, "no, but it misses data", "watch", says, tuple(facts), (_GO_ON, _WIDEN[1]))
    if newest is not None and newest.spread > WILD:
        says = "Samples differ more than real images do, so they are no images of this kind: noise or a wrong contrast."
        return Finding(question, "no", "watch", says, tuple(facts), _CALM[:1])
    says = "Samples differ about as much as real images do." if newest else "Samples cover the data."
    return Finding(question, "no", "good", says, tuple(facts))


def _spread_facts(pictures: Sequence[Variety]) -> Iterator[Fact]:
    if not pictures:
        return
    last, best = pictures[-1], max(pictures[1:] or pictures, key=lambda v: v.spread)
    yield Fact(
        "spread", last.spread, last.kimg,
        f"stored samples differ {last.spread:.2f} times as much as real images, the nearest two {last.nearest:.2f} "
        f"times, at {last.kimg:g} kimg",
    )  # fmt: skip
    if best.spread > 1.5 * last.spread:
        yield Fact("best spread", best.spread, best.kimg, f"it was {best.spread:.2f} at {best.kimg:g} kimg")
    if last.repeated > 0:
        yield Fact("repeated", last.repeated, last.kimg, f"{last.repeated:.0%} of them nearly repeat another one")


def _collapse(question: str, pictures: Sequence[Variety], facts: tuple[Fact, ...]) -> Finding | None:
    """Alike now: after they were not, or still; a run whose samples are just spreading has not collapsed."""
    trained = [v for v in pictures if v.kimg > 0]
    if not trained or trained[-1].spread >= ALIKE:
        return None
    last = trained[-1]
    before = [v for v in trained if v.spread > NARROW]
    if before:
        says = f"The samples have become alike: they were not at {before[-1].kimg:g} kimg."
        return Finding(question, "collapsed", "bad", says, facts, (_BACK.format(before[-1].kimg), *_WIDEN))
    if len(trained) < 3:
        return Finding(question, "too early", "unknown", "The samples are alike, but it has hardly begun.", facts)
    if last.spread > 1.1 * trained[-2].spread:
        return Finding(question, "not yet", "watch", "The samples are still alike, but they are spreading.", facts)
    return Finding(question, "collapsed", "bad", "The samples are alike and always were.", facts, _WIDEN)


_GO_ON = "go on while scores improve: coverage and recall grow with quality"
_BACK = "start again from the checkpoint nearest to {:g} kimg if it is kept (train ... --init-from RUN/checkpoints/...)"
_WIDEN = (
    "lower the learning rates; the generator's first (--g.lr)",
    "add R1 (--penalty.r1) or let the discriminator compare the batch (the style systems do: minibatch deviation)",
    "another objective: nonsaturating or relativistic instead of minimax, wgan-gp instead of wgan",
)


def _coverage(evidence: Evidence) -> list[tuple[Fact, float]]:
    """The newest of each score of variety, and its share of the floor."""
    newest = {m.metric: m for m in sorted(evidence.scores, key=lambda m: m.kimg) if m.metric in _VARIETY}
    found = []
    for metric in sorted(newest):
        m = newest[metric]
        whole = m.floor if math.isfinite(m.floor) and m.floor > 0 else 1.0
        beside = f", real against real {m.floor:.3g}" if math.isfinite(m.floor) else ""
        found.append(
            (Fact(metric, m.value, m.kimg, f"{m.name} {m.value:.3g}{beside}, at {m.kimg:g} kimg"), m.value / whole)
        )
    return found


_VARIETY = ("coverage", "recall", "modes_1_percent", "modes_20")


# ---- do the players still play?
def balance(evidence: Evidence) -> Finding:
    """Saturation: a player that has won or stopped, so that the other learns nothing."""
    question = "Has it saturated?"
    if why := _short(evidence):
        return _unknown(question, why)
    if not player(evidence, True) or not player(evidence, False):
        return _unknown(question, "The log has no adversarial losses of a generator and a discriminator.")
    for rule in (_clipped, _vanished, _won, _cannot_tell):
        found = rule(question, evidence)
        if found is not None:
            return found
    facts = [fact for generator in (False, True) if (fact := _loss_fact(evidence, generator)) is not None]
    facts += _norm_facts(evidence)[:1]
    return Finding(question, "no", "good", "Both players have something to learn from.", tuple(facts))


def _loss_fact(evidence: Evidence, generator: bool) -> Fact | None:
    points = losses(evidence, generator)
    if not points:
        return None
    last, now = quarter(points, 3)
    level = evidence.undecided[int(generator)]
    beside = f" ({level:.3g} when it cannot tell)" if level else ""
    name = player(evidence, generator)
    return Fact(f"{name}'s loss", last, now, f"{name}'s loss: median {last:.3g} in the last quarter{beside}")


def _norm_facts(evidence: Evidence) -> list[Fact]:
    name = f"gradient_norm.{player(evidence, True)}"
    points = series(evidence, name)
    if not points:
        return []
    (first, _), (last, now) = quarter(points, 0), quarter(points, 3)
    return [Fact(name, last, now, f"{name}: median {first:.3g} in the first quarter, {last:.3g} in the last")]


def _clipped(question: str, evidence: Evidence) -> Finding | None:
    share = evidence.at_clip
    if share is None or not evidence.clip or share < AT_CLIP:
        return None
    text = f"{share:.0%} of the critic's weights are at ±{evidence.clip:g}, the clip, at {evidence.kimg:g} kimg"
    facts = (Fact("at clip", share, evidence.kimg, text), *_norm_facts(evidence))
    says = "Clipping has saturated: most weights of the critic are on the bound, so few functions are left to it."
    return Finding(question, "clipping", "bad", says, facts, _UNCLIP)


_UNCLIP = ("a larger --clip (0.01 to 0.1), or a gradient penalty instead: saddlepoint train wgan-gp",)


def _vanished(question: str, evidence: Evidence) -> Finding | None:
    facts = _norm_facts(evidence)
    points = series(evidence, f"gradient_norm.{player(evidence, True)}")
    if not facts or not points:
        return None
    first, last = quarter(points, 0)[0], quarter(points, 3)[0]
    if last >= NOTHING and last >= VANISHED * first:
        return None
    moved = [v for v in evidence.pictures if math.isfinite(v.change)][-1:]
    more = [Fact("change", v.change, v.kimg, f"samples changed by {v.change:.2g} of the real spread since the grid "
                 f"before, at {v.kimg:g} kimg") for v in moved]  # fmt: skip
    says = "The generator's gradient has vanished: it learns nothing any more."
    advice = (*_UNCLIP, *_EVEN) if evidence.clip else _EVEN
    return Finding(question, "vanished", "bad", says, (*facts, *more), advice)


def _won(question: str, evidence: Evidence) -> Finding | None:
    level, flat = evidence.undecided
    judged, made = _loss_fact(evidence, False), _loss_fact(evidence, True)
    facts = tuple(fact for fact in (judged, made) if fact is not None)
    minimax = evidence.objective == "minimax" and made is not None and bool(flat)
    if minimax and abs(made.value) < FLAT * abs(flat or 1):  # type: ignore[union-attr]
        says = "The minimax loss has saturated: nearly every fake is found out, where its slope is 0."
        return Finding(question, "saturated", "bad", says, facts, ("--objective nonsaturating", *_EVEN))
    if judged is None or not level or judged.value >= WON * level:
        return None
    says = "The discriminator has won: it tells nearly every image, and its slope says little to the generator."
    return Finding(question, "saturated", "bad", says, facts, _EVEN)


_EVEN = (
    "slow the discriminator (--d.lr down, fewer --d.steps) or smooth it: R1 (--penalty.r1), more of it if it is on",
    "few images? more of them, or show it augmented ones (--augment.operations bgc, in stylegan2, stylegan3 and r3gan)",
)


def _cannot_tell(question: str, evidence: Evidence) -> Finding | None:
    facts = [_loss_fact(evidence, generator) for generator in (False, True)]
    levels = evidence.undecided
    if any(fact is None or level is None or not level for fact, level in zip(facts, levels, strict=True)):
        return None
    known = [(fact, level) for fact, level in zip(facts, levels, strict=True) if fact is not None and level]
    if any(abs(fact.value - level) > UNDECIDED * abs(level) for fact, level in known):
        return None
    says = "The discriminator cannot tell real from fake: either the samples are that good, or it is too weak."
    gamma = f"R1 may be too strong. {evidence.gamma}" if evidence.r1 else "a larger discriminator or a higher --d.lr"
    advice = ("saddlepoint evaluate RUN tells which: scores near their floor, or far from it", gamma)
    return Finding(question, "undecided", "watch", says, tuple(fact for fact, _ in known), advice)


# ---- does it overfit?
def overfitting(evidence: Evidence) -> Finding:
    """D(real) against held-out images where it was measured, r_t of the augmentation, copies."""
    question = "Does it overfit?"
    for rule in (_copies, _gap, _sign):
        found = rule(question, evidence)
        if found is not None:
            return found
    return _unknown(
        question,
        "Neither r_t, the discriminator's mean sign on real images, was logged, nor were held-out images looked at.",
        "saddlepoint report RUN --held-out, if the data are a named set with a test split",
        "stylegan2, stylegan3 and r3gan log r_t where --augment.operations is on",
    )


def _copies(question: str, evidence: Evidence) -> Finding | None:
    newest = [m for m in sorted(evidence.scores, key=lambda m: m.kimg) if m.metric == "c_t"][-1:]
    if not newest or newest[0].value >= COPIES:
        return None
    m = newest[0]
    text = f"C_T {m.value:.3g} at {m.kimg:g} kimg: samples are nearer to training images than unseen real ones are"
    says = "The generator copies training images."
    return Finding(question, "copies", "bad", says, (Fact("c_t", m.value, m.kimg, text),), _MORE)


def _gap(question: str, evidence: Evidence) -> Finding | None:
    seen = evidence.held_out
    if seen is None or not math.isfinite(seen.ratio):
        return None
    gap = seen.train - seen.held_out
    logits = f"{seen.train:.3g} on training images, {seen.held_out:.3g} on held-out ones, {seen.fake:.3g} on samples"
    signs = f"{seen.train_sign:.2f} on training images, {seen.held_out_sign:.2f} on held-out ones"
    ratio = f"D's mean logit: {logits} ({seen.images:,} of each, {seen.kimg:g} kimg), so r_v = {seen.ratio:.2f}"
    facts = (
        Fact("r_v", seen.ratio, seen.kimg, ratio),
        Fact("sign", seen.train_sign, seen.kimg, f"mean sign of D: {signs}"),
    )
    if seen.train <= seen.fake:
        return _unknown(question, "The discriminator does not put training images above samples, so r_v says nothing.")
    if seen.ratio > GAP and gap > NOISE * seen.error:
        says = "The discriminator knows its training images: held-out ones look to it more like samples."
        return Finding(question, "overfits", "bad", says, facts, _MORE)
    if seen.ratio > SOME_GAP and gap > NOISE * seen.error:
        says = "The discriminator knows its training images in part."
        return Finding(question, "a little", "watch", says, facts, _MORE)
    return Finding(question, "no", "good", "The discriminator treats held-out images like those it saw.", facts)


def _sign(question: str, evidence: Evidence) -> Finding | None:
    signs, strengths = series(evidence, "augment.sign"), series(evidence, "augment.p")
    if len(signs) < TICKS:
        return None
    sign, now = quarter(signs, 3)
    target = evidence.augment_target or 0.6
    p = strengths[-1][1] if strengths else 0.0
    text = f"r_t = mean sign of D on real images: {sign:.2f} in the last quarter, target {target:g}; p {p:.2f}"
    facts = (Fact("r_t", sign, now, f"{text}, at {now:g} kimg"),)
    if sign <= target + SURE:
        return Finding(question, "no", "good", "The discriminator is not too sure of real images.", facts)
    if p >= 0.8 or not evidence.augment_target:
        says = "The discriminator is sure of nearly every real image, though they are augmented."
        return Finding(question, "overfits", "bad", says, facts, _MORE)
    says = "The discriminator is too sure of real images; the augmentation is being raised."
    advice = ("a smaller --augment.kimg raises p faster",)
    return Finding(question, "held back", "watch", says, facts, advice)


_MORE = (
    "more images, --mirror where a mirrored image is as good, or --augment.operations bgc with --augment.kimg 100 "
    "(stylegan2, stylegan3, r3gan)",
    "start from a run on other data (--init-from), with --freeze-d 4; or stop at the best checkpoint",
)


# ---- does it still improve?
def progress(evidence: Evidence) -> Finding:
    """The trend of a score that was measured more than once; for critics, of their estimate; else it cannot be said."""
    question = "Does it still improve?"
    for metric in _TREND:
        points = trend(evidence.scores, metric)
        if len(points) >= 2:
            return _trend(question, points, evidence)
    if evidence.objective == "wasserstein" and not _short(evidence) and not evidence.failure:
        found = _estimate(question, evidence)
        if found is not None:
            return found
    known = sorted(evidence.scores, key=lambda m: m.kimg)
    once = [m for metric in _TREND for m in [s for s in known if s.metric == metric][-1:]][:1]
    facts = tuple(Fact(m.metric, m.value, m.kimg, _score_text(m)) for m in once)
    why = f"Quality was {'measured only once' if once else 'not measured'}, and losses do not tell."
    return Finding(question, "not enough evidence", "unknown", why, facts, _SCORE_IT)


_TREND = ("fd", "kd", "modes_1_percent", "w1", "swd", "coverage", "is")
_SCORE_IT = (
    "train with --evaluate-every KIMG, or saddlepoint evaluate RUN --checkpoint KIMG for two checkpoints of the run",
)


def trend(scores: Sequence[Measured], metric: str) -> list[Measured]:
    """The measurements of one metric that may be compared, oldest first: those made in the way that was used most."""
    groups: dict[str, dict[float, Measured]] = {}
    for m in scores:
        if m.metric == metric and math.isfinite(m.value):
            groups.setdefault(m.key, {})[m.kimg] = m
    best = max(groups.values(), key=len, default={})
    return [best[kimg] for kimg in sorted(best)]


def _score_text(m: Measured) -> str:
    error = f" ± {m.error:.2g}" if math.isfinite(m.error) else ""
    floor = f", floor {m.floor:.3g}" if math.isfinite(m.floor) else ""
    return f"{m.name} {m.value:.4g}{error} at {m.kimg:g} kimg{floor}"


def _trend(question: str, points: Sequence[Measured], evidence: Evidence) -> Finding:
    sign = -1.0 if points[0].better == "higher" else 1.0
    last, best = points[-1], min(points, key=lambda m: sign * m.value)
    before = [m for m in points[:-1] if m.kimg <= 0.75 * last.kimg][-1:] or [points[0]]
    facts = [Fact(m.metric, m.value, m.kimg, _score_text(m)) for m in dict.fromkeys([before[0], best, last])]

    def better_by(a: Measured, b: Measured) -> float:
        """How many standard errors a is better than b; errors that nobody measured count as 2 %."""
        errors = [m.error if math.isfinite(m.error) and m.error > 0 else 0.02 * abs(m.value) for m in (a, b)]
        return sign * (b.value - a.value) / (math.hypot(*errors) or 1e-12)

    if better_by(best, last) > NOISE + 1 and abs(best.value - last.value) > 0.05 * abs(best.value):
        says = f"It was better at {best.kimg:g} kimg than it is at {last.kimg:g}."
        advice = ("use that checkpoint if it is kept (saddlepoint sample RUN --checkpoint best)", *_FURTHER)
        return Finding(question, "past its best", "watch", says, tuple(facts), advice)
    if better_by(last, before[0]) > NOISE:
        says = f"The score is better than it was at {before[0].kimg:g} kimg, by more than its error."
        more = "go on: saddlepoint resume RUN --kimg " + f"{2 * max(evidence.goal, last.kimg):g}"
        return Finding(question, "improves", "good", says, tuple(facts), (more,))
    says = f"Since {before[0].kimg:g} kimg the score has changed by less than its error."
    return Finding(question, "level", "watch", says, tuple(facts), _FURTHER)


_FURTHER = ("lower learning rates from here, a longer --ema-half-life-kimg, a larger network, or stop",)


def _estimate(question: str, evidence: Evidence) -> Finding | None:
    points = series(evidence, "wasserstein_estimate")
    if len(points) < TICKS:
        return None
    (before, then), (last, now) = quarter(points, 2), quarter(points, 3)
    text = f"critic's estimate of the distance: median {before:.3g} to {then:g} kimg, {last:.3g} to {now:g} kimg"
    facts = (Fact("wasserstein_estimate", last, now, text),)
    if not before > 0 or not last > 0:
        return None
    if last < 0.9 * before:
        says = "The critic's estimate still falls, which speaks for it as long as the critic is trained well."
        return Finding(question, "probably", "watch", says, facts, _SCORE_IT)
    says = "The critic's estimate has stopped falling; whether samples improve needs scores."
    return Finding(question, "not enough evidence", "unknown", says, facts, _SCORE_IT)


# ---- the linear theory, if asked
def local(spectrum: Mapping[str, Any]) -> Finding:
    """The newest checkpoint's spectrum in words (see `saddlepoint analyse`)."""
    question = "What does its spectrum say?"
    kimg = float(spectrum["kimg"])
    rightmost, share = float(spectrum["largest_real_part"]), float(spectrum["rotation_share"])
    step = spectrum["largest_stable_step"]["simultaneous"]
    steps = "no plain step is" if step == 0 else "any plain step is" if step is None else f"steps up to {step:.3g} are"
    real = f"largest real part of the eigenvalues found {rightmost:.3g}, at {kimg:g} kimg"
    facts = (
        Fact("largest Re", rightmost, kimg, real),
        Fact("rotation", share, kimg, f"share of rotation in the Jacobian {share:.2f} (0 descends, 1 circles)"),
        Fact("step", math.nan if step is None else float(step), kimg, f"{steps} stable"),
    )
    if rightmost > 0:
        says = "Around this point the continuous flow leaves: it is not at an equilibrium, or it circles away from one."
        advice = ("R1 (--penalty.r1), --operator consensus or extragradient damp rotation",) if share > 0.5 else ()
        return Finding(question, "unstable here", "watch", says, facts, advice)
    says = "Around this point the continuous flow comes nearer; steps that are too large may still leave."
    return Finding(question, "stable here", "good", says, facts)


# ---- for people
MARKS: dict[Level, str] = {"good": "+", "watch": "!", "bad": "!!", "unknown": "?"}


def lines(findings: Sequence[Finding]) -> list[str]:
    """The findings as lines of text."""
    found = []
    for f in findings:
        found.append(f"{f.question} {f.verdict}. {f.says}")
        found += [f"    {fact.text}" for fact in f.evidence]
        found += [f"    try: {advice}" for advice in f.advice]
    return found
