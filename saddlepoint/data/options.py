"""How images are brought to one shape: the user's options, checked, and what they mean for a given size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from saddlepoint.errors import UserError, unknown

from .catalog import Facts

FITS = ("auto", "pad", "resize", "crop", "stretch")
BACKGROUNDS = {"auto": -1, "black": 0, "grey": 128, "white": 255}
LARGEST = 8192  # pixels along one side
Resolution = int | str | tuple[int, int] | None


@dataclass(frozen=True)
class Options:
    """The shape that all images get. 0 means "as the images are".

    fit, for an image that has another size:
      pad      never enlarged; shrunk only if it is too large; centred on the background
      resize   scaled to fit inside, aspect kept; the rest is background
      crop     scaled to cover, aspect kept; the middle is cut out
      stretch  both sides scaled on their own
      auto     pad for drawings and for grey sets at most a quarter too small (28 -> 32: not resampled); else crop
    background: what shows through transparency and around padded images; auto is black for grey sets without
    transparency, else white. With 4 channels transparency is kept, and padding of images that have any is transparent.
    """

    height: int = 0
    width: int = 0
    channels: int = 0
    fit: str = "auto"
    background: str = "auto"

    @classmethod
    def parse(
        cls, resolution: Resolution = None, channels: int | None = None, fit: str = "auto", background: str = "auto"
    ) -> Options:
        """Options from what a user types; raises UserError naming the option and its valid values."""
        if channels not in (None, 1, 3, 4):
            raise UserError(f"channels is {channels!r}; expected 1 (grey), 3 (RGB) or 4 (RGB and alpha).")
        if fit not in FITS:
            raise unknown("fit", fit, FITS)
        if background not in BACKGROUNDS:
            raise unknown("background", background, BACKGROUNDS)
        return cls(*parse_resolution(resolution), channels or 0, fit, background)

    def settled(self, facts: Facts) -> Options:
        """These options with every open question answered for a set with these native facts."""
        height, width = self.height or facts.height, self.width or facts.width
        fit, background = self.fit, self.background
        if fit == "auto":
            near = facts.height <= height <= 1.25 * facts.height and facts.width <= width <= 1.25 * facts.width
            fit = "pad" if facts.vector or (facts.channels == 1 and near) else "crop"
        if background == "auto":
            background = "black" if facts.channels == 1 and not facts.transparent else "white"
        return Options(height, width, self.channels or facts.channels, fit, background)

    def drawing_size(self) -> int:
        """Side of the square at which a drawing is rendered, so that it need not be resized to fit."""
        return (max if self.fit in ("crop", "stretch") else min)(self.height, self.width)

    def applied(self, facts: Facts) -> Facts:
        """The facts of the set after these options."""
        to = self.settled(facts)
        fitted = bool(self.height)  # without a resolution images of another size are not fitted but bad
        said = to._preparation(replace(facts, mixed=facts.mixed and fitted))
        facts = replace(facts, height=to.height, width=to.width, channels=to.channels, preparation=said)
        return replace(facts, mixed=facts.mixed and not fitted)

    def _preparation(self, facts: Facts) -> str:
        """In words what is done to the images."""
        before, after = f"{facts.height}x{facts.width}", f"{self.height}x{self.width}"
        if facts.vector:
            steps = [f"drawn at {self.drawing_size()} px"]
        elif facts.mixed:
            steps = [f"fitted from various sizes to {after} by {self.fit!r}, Lanczos filter"]
        elif before == after:
            steps = ["size as stored"]
        elif self.fit == "pad" and facts.height <= self.height and facts.width <= self.width:
            steps = [f"padded from {before} to {after}, not resampled"]
        elif facts.height * self.width == facts.width * self.height:
            steps = [f"resized from {before} to {after}, Lanczos filter"]
        else:
            steps = [f"fitted from {before} to {after} by {self.fit!r}, Lanczos filter"]
        if self.channels == 4:
            steps.append("transparency kept")
        elif facts.transparent or (before != after and self.fit in ("pad", "resize")):
            steps.append(f"background {self.background}")
        if self.channels < facts.channels:
            steps.append(f"channels {facts.channels} to {self.channels}")
        return "; ".join(steps)


def parse_resolution(resolution: Resolution) -> tuple[int, int]:
    """(height, width) of 64, "64", "64x48" (height x width) or (64, 48); (0, 0) of None."""
    if resolution is None:
        return 0, 0
    sides = resolution if isinstance(resolution, tuple) else str(resolution).lower().split("x")
    try:
        height, width = (int(side) for side in (sides if len(sides) == 2 else (*sides, *sides)))
    except ValueError:
        height = 0
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise UserError(
            f"resolution is {resolution!r}; expected a side such as 64 or height x width such as 64x48, "
            f"each from 1 to {LARGEST}."
        )
    return height, width
