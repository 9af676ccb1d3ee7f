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
      auto     pad for greyscale images at most a quarter too small (28 -> 32, nothing is resampled) and for drawings;
               crop otherwise
    background: what shows through transparency and around padded images; auto is black for greyscale sets, white
    for colour. With 4 channels transparency is kept and padding is transparent.
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

    def fit_for(self, height: int, width: int, grey: bool) -> str:
        """The fit that an image of this size gets: one of FITS other than auto, or "none"."""
        if (height, width) == (self.height, self.width):
            return "none"
        if self.fit != "auto":
            return self.fit
        enlarged = height <= self.height <= 1.25 * height and width <= self.width <= 1.25 * width
        return "pad" if grey and enlarged else "crop"

    def settled(self, facts: Facts) -> Options:
        """These options with every open question answered for a set with these native facts."""
        background = self.background
        if background == "auto":
            background = "black" if facts.channels == 1 else "white"
        return replace(
            self,
            height=self.height or facts.height,
            width=self.width or facts.width,
            channels=self.channels or facts.channels,
            fit="pad" if facts.vector and self.fit == "auto" else self.fit,
            background=background,
        )

    def drawing_size(self) -> int:
        """Side of the square at which a drawing is rendered, so that it need not be resized to fit."""
        return (max if self.fit in ("crop", "stretch") else min)(self.height, self.width)

    def applied(self, facts: Facts) -> Facts:
        """The facts of the set after these options."""
        to = self.settled(facts)
        return replace(
            facts, height=to.height, width=to.width, channels=to.channels, preparation=to._preparation(facts)
        )

    def _preparation(self, facts: Facts) -> str:
        """In words what is done to every image, for a native size that all images share."""
        size = f"{self.height}x{self.width}"
        fit = self.fit_for(facts.height, facts.width, facts.channels == 1)
        if facts.vector:
            steps = [f"drawn at {self.drawing_size()} px by resvg"]
        elif fit == "none":
            steps = ["size as stored"]
        elif fit == "pad" and facts.height <= self.height and facts.width <= self.width:
            steps = [f"padded from {facts.height}x{facts.width} to {size}, not resampled"]
        elif facts.height * self.width == facts.width * self.height:
            steps = [f"resized from {facts.height}x{facts.width} to {size}, Lanczos filter"]
        else:
            steps = [f"fitted from {facts.height}x{facts.width} to {size} by {fit!r}, Lanczos filter"]
        if self.channels != 4 and (facts.vector or fit in ("pad", "resize")):
            steps.append(f"background {self.background}")
        if self.channels == 4:
            steps.append("transparency kept")
        elif self.channels != facts.channels:
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
