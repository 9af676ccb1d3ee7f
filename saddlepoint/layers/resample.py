"""Resampling by small filters: zero-insert, pad or crop, filter, keep every nth sample; and what is built on it.

`upfirdn2d` has the semantics of the operator of the same name in NVlabs/stylegan2-ada-pytorch and NVlabs/stylegan3
(Karras et al. 2020, arXiv:1912.04958; 2021, arXiv:2106.12423), without compiled code. Every function is linear algebra
that torch differentiates as often as asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saddlepoint.errors import UserError, unknown

Pair = int | Sequence[int]  # one for both axes, or (x, y)
Padding = int | Sequence[int]  # one for all sides, (x, y) or (x0, x1, y0, y1); negative crops


def pair(value: Pair, name: str) -> tuple[int, int]:
    """(x, y) from one whole number >= 1 for both axes, or from two."""
    x, y = (value, value) if isinstance(value, int) else tuple(value)
    if min(x, y) < 1:
        raise UserError(f"{name} is {value!r}; expected a whole number from 1 on, or (x, y).")
    return x, y


def sides(padding: Padding) -> tuple[int, int, int, int]:
    """(x0, x1, y0, y1) from one number for all sides, (x, y) or all four."""
    given = [padding] if isinstance(padding, int) else list(padding)
    if len(given) == 1:
        given *= 4
    if len(given) == 2:
        given = [given[0], given[0], given[1], given[1]]
    if len(given) != 4:
        raise UserError(f"padding is {padding!r}; expected a whole number, (x, y) or (x0, x1, y0, y1).")
    return given[0], given[1], given[2], given[3]


def taps_of(f: Tensor | None) -> tuple[int, int]:
    """Taps along x and y: a filter [k] is used along both axes, None is the identity."""
    if f is None:
        return 1, 1
    if f.ndim not in (1, 2) or not f.numel():
        raise UserError(f"a filter is a tensor [k] (separable) or [kh, kw], not {list(f.shape)}.")
    return f.shape[-1], f.shape[0]


def setup_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | Tensor | float | None,
    *,
    normalise: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """A filter for `upfirdn2d` in float32, from taps [k] or [kh, kw] (None: one tap).

    normalise: divide by the sum. gain: what a constant image is multiplied by. separable: keep taps [k] as they are
    rather than as their outer product [k, k]; None does so from 8 taps on, as the official code (so that buffers of
    published weights have their shapes).
    """
    f = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32)
    f = f[None] if f.ndim == 0 else f
    taps_of(f)
    if f.ndim == 1 and not (len(f) >= 8 if separable is None else separable):
        f = torch.outer(f, f)
    if f.ndim == 2 and separable:
        raise UserError("a filter given as [kh, kw] cannot be made separable; give its taps [k].")
    if normalise:
        f = f / f.sum()
    if flip:
        f = f.flip(list(range(f.ndim)))
    return f * gain ** (f.ndim / 2)


def output_size(size: int, up: int, down: int, before: int, after: int, taps: int) -> int:
    """Samples that `upfirdn2d` leaves along an axis."""
    left = size * up + before + after - taps
    if left < 0:
        raise UserError(
            f"a filter of {taps} taps does not fit into {size} samples up {up} times with padding ({before}, {after})."
        )
    return left // down + 1


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Resample images [N, C, H, W]: up - 1 zeros after every sample, pad, convolve with f, keep every down-th sample.

    Per axis, with xz the zero-inserted and padded signal: y[j] = sum_t f[k-1-t] xz[j down + t] (f[t] where flip), and
    ceil((size up + before + after - k + 1) / down) samples come out. f: [kh, kw], or [k] for both axes; None is one
    tap. up, down: both axes or (x, y). padding: all sides, (x, y) or (x0, x1, y0, y1), at the upsampled rate;
    negative crops. gain multiplies the result.
    """
    (kx, ky), (ux, uy), (dx, dy) = taps_of(f), pair(up, "up"), pair(down, "down")
    x0, x1, y0, y1 = sides(padding)
    if x.ndim != 4:
        raise UserError(f"upfirdn2d resamples images [N, C, H, W], not {list(x.shape)}.")
    width = output_size(x.shape[3], ux, dx, x0, x1, kx)
    height = output_size(x.shape[2], uy, dy, y0, y1, ky)
    if f is None and gain == 1 and (ux, uy, dx, dy, x0, x1, y0, y1) == (1, 1, 1, 1, 0, 0, 0, 0):
        return x
    f = x.new_ones(1) if f is None else f.to(device=x.device, dtype=x.dtype)
    if gain != 1:
        f = f * gain ** (f.ndim / 2)
    f = f if flip else f.flip(list(range(f.ndim)))  # from here on y[j] = sum_t f[t] xz[j down + t]
    across, along = Axis(ux, dx, x0, width), Axis(uy, dy, y0, height)
    if f.ndim == 2:
        return _resample(x, f, along, across)
    if len(f) == 1 and (ux, uy) == (1, 1):
        return _identity(x, along, across) * f.square()
    # Rows first, as the official code, so that float32 rounds alike.
    x = _resample(x, f[None, :], Axis(1, 1, 0, x.shape[2]), across)
    return _resample(x, f[:, None], along, Axis(1, 1, 0, x.shape[3]))


class Axis(NamedTuple):
    """Resampling along one axis: xz begins `before` samples ahead of the signal, and `size` samples come out."""

    up: int
    down: int
    before: int
    size: int

    def after(self, size: int, taps: int) -> int:
        """Padding behind a signal of `size` samples so that the last output still sees all taps."""
        return (self.size - 1) * self.down + taps - size * self.up - self.before

    def adjoint(self, size: int, taps: int) -> Axis:
        """The transposed operator, for the flipped filter: up and down change places."""
        return Axis(self.down, self.up, taps - 1 - self.before, size)


def _resample(x: Tensor, f: Tensor, along: Axis, across: Axis) -> Tensor:
    """y[j] = sum_t f[t] xz[j down + t], f [kh, kw] of either one axis or both."""
    if x.requires_grad and not f.requires_grad:
        y: Tensor = _Resample.apply(x, f, along, across)
        return y
    return _filtered(x, f, along, across)


class _Resample(torch.autograd.Function):
    """Resampling is linear, its transpose is a resampling: derivatives of any order cost what the forward costs.

    torch would differentiate the depthwise convolutions themselves: they keep their inputs, where a linear operator
    needs to keep nothing, and the second derivative costs many times a forward. CPU milliseconds of one thread for 8
    images of 32 channels, 36x36, 12 taps, up by 2, leaky ReLU, down by 2, in NHWC (NCHW takes a third more): forward 5,
    backward 7, second backward 12; by zero insertion and convolution in NCHW 19, 34 and 139; strided depthwise
    convolutions differentiated by torch 6, 8 and 99; dense [out, in] matrices per axis 8, 8 and 19, and quadratic in
    the size. A filter of 12x12 taps takes no longer than two of 12 when it goes down.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, f: Tensor, along: Axis, across: Axis) -> Tensor:
        return _filtered(x, f, along, across)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Axis, Axis], output: Tensor) -> None:
        x, f, along, across = inputs
        ctx.save_for_backward(f)
        ctx.save_for_forward(f)
        ctx.axes, ctx.shape = (along, across), x.shape

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (f,) = ctx.saved_tensors
        (along, across), (height, width) = ctx.axes, ctx.shape[2:]
        along, across = along.adjoint(height, f.shape[0]), across.adjoint(width, f.shape[1])
        return _resample(slopes[0], f.flip((0, 1)), along, across), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (f,) = ctx.saved_tensors
        return _resample(tangents[0], f, *ctx.axes)


def _filtered(x: Tensor, f: Tensor, along: Axis, across: Axis) -> Tensor:
    """Depthwise convolutions without the inserted zeros: strided to go down, transposed and strided to go up."""
    strided = (along.up, along.down, across.up, across.down) != (1, 1, 1, 1)
    if strided and x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cpu":
        # Strided and transposed depthwise kernels in half precision are generic code there: 27 ms for 32 images of 32
        # channels, 32x32, against 2 ms in float32 with both casts.
        return _filtered(x.float(), f.float(), along, across).to(x.dtype)
    (height, width), (ky, kx), channels = x.shape[2:], f.shape, x.shape[1]
    kernel = f.expand(channels, 1, ky, kx)
    with torch.autocast(x.device.type, enabled=False):
        if (along.up, across.up) == (1, 1):
            left, right, upper, lower = (across.before, across.after(width, kx), along.before, along.after(height, ky))
            pad = max(min(upper, lower), 0), max(min(left, right), 0)  # free inside the convolution
            x = _framed(x, (left - pad[1], right - pad[1], upper - pad[0], lower - pad[0]))
            return F.conv2d(x, kernel, stride=(along.down, across.down), padding=pad, groups=channels)
        # All of the full convolution; of its ky - 1 (kx - 1) samples on each side, padding keeps some
        upper, left = ky - 1 - along.before, kx - 1 - across.before
        lower = (height - 1) * along.up + ky - upper - (along.size - 1) * along.down - 1
        right = (width - 1) * across.up + kx - left - (across.size - 1) * across.down - 1
        cut = max(min(upper, lower), 0), max(min(left, right), 0)
        x = F.conv_transpose2d(x, kernel.flip((2, 3)), stride=(along.up, across.up), padding=cut, groups=channels)
    x = _framed(x, (cut[1] - left, cut[1] - right, cut[0] - upper, cut[0] - lower))
    return x if (along.down, across.down) == (1, 1) else x[:, :, :: along.down, :: across.down]


def _framed(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Zeros around [N, C, H, W], or less of it where negative."""
    if max(padding) > 0:
        x = F.pad(x, [max(side, 0) for side in padding])
    if min(padding) < 0:
        x0, x1, y0, y1 = (max(-side, 0) for side in padding)
        x = x[:, :, y0 : x.shape[2] - y1, x0 : x.shape[3] - x1]
    return x


def _identity(x: Tensor, along: Axis, across: Axis) -> Tensor:
    """One tap: padding and subsampling only."""
    (height, width) = x.shape[2:]
    x = _framed(x, (across.before, across.after(width, 1), along.before, along.after(height, 1)))
    return x[:, :, :: along.down, :: across.down]


def filter2d(x: Tensor, f: Tensor | None, padding: Padding = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Filter and keep the size; padding is added to that."""
    (kx, ky), (x0, x1, y0, y1) = taps_of(f), sides(padding)
    around = (x0 + kx // 2, x1 + (kx - 1) // 2, y0 + ky // 2, y1 + (ky - 1) // 2)
    return upfirdn2d(x, f, padding=around, flip=flip, gain=gain)


def upsample2d(
    x: Tensor, f: Tensor | None, up: Pair = 2, padding: Padding = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """`up` times as large; padding is added to that, in samples of the output. Constants keep their value."""
    (kx, ky), (x0, x1, y0, y1), (ux, uy) = taps_of(f), sides(padding), pair(up, "up")
    around = (x0 + (kx + ux - 1) // 2, x1 + (kx - ux) // 2, y0 + (ky + uy - 1) // 2, y1 + (ky - uy) // 2)
    return upfirdn2d(x, f, up=up, padding=around, flip=flip, gain=gain * ux * uy)


def downsample2d(
    x: Tensor, f: Tensor | None, down: Pair = 2, padding: Padding = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """`down` times as small; padding is added to that, in samples of the input."""
    (kx, ky), (x0, x1, y0, y1), (dx, dy) = taps_of(f), sides(padding), pair(down, "down")
    around = (x0 + (kx - dx + 1) // 2, x1 + (kx - dx) // 2, y0 + (ky - dy + 1) // 2, y1 + (ky - dy) // 2)
    return upfirdn2d(x, f, down=down, padding=around, flip=flip, gain=gain)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip: bool = False,
) -> Tensor:
    """Upsample by `up`, convolve with w [O, I / groups, kh, kw], downsample by `down`; f filters around the resampling.

    padding is that of the upsampled image, beside what centres the filter. flip_weight: True correlates, as torch's
    convolutions do; False convolves. flip: likewise for f, whose normal sense is convolution.
    """
    (fx, fy), (x0, x1, y0, y1) = taps_of(f), sides(padding)
    up, down = pair(up, "up")[0], pair(down, "down")[0]
    ky, kx = w.shape[2:]
    if up > 1:
        x0, x1, y0, y1 = x0 + (fx + up - 1) // 2, x1 + (fx - up) // 2, y0 + (fy + up - 1) // 2, y1 + (fy - up) // 2
    if down > 1:
        x0, x1 = x0 + (fx - down + 1) // 2, x1 + (fx - down) // 2
        y0, y1 = y0 + (fy - down + 1) // 2, y1 + (fy - down) // 2
    if not flip_weight:
        w = w.flip((2, 3))
    if (kx, ky) == (1, 1) and down > 1 and up == 1:  # filter first: fewer samples to convolve
        return F.conv2d(upfirdn2d(x, f, down=down, padding=(x0, x1, y0, y1), flip=flip), w, groups=groups)
    if (kx, ky) == (1, 1) and up > 1 and down == 1:  # convolve first, for the same reason
        return upfirdn2d(F.conv2d(x, w, groups=groups), f, up, padding=(x0, x1, y0, y1), flip=flip, gain=up**2)
    if up > 1:  # filters commute: the convolution skips the inserted zeros as a transposed one
        x = F.conv_transpose2d(x, _transposed(w, groups), stride=up, groups=groups)
        around = (x0 - (kx - 1), x1 - (kx - up), y0 - (ky - 1), y1 - (ky - up))
        x = upfirdn2d(x, f, padding=around, flip=flip, gain=up**2)
        return x if down == 1 else upfirdn2d(x, f, down=down, flip=flip)
    if down > 1:
        x = upfirdn2d(x, f, padding=(x0, x1, y0, y1), flip=flip)
        return F.conv2d(x, w, stride=down, groups=groups)
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return F.conv2d(x, w, padding=(y0, x0), groups=groups)
    return F.conv2d(F.pad(x, (x0, x1, y0, y1)), w, groups=groups)


def _transposed(w: Tensor, groups: int) -> Tensor:
    """Weights [O, I / groups, kh, kw] of a correlation as those of the transposed one, [I, O / groups, kh, kw]."""
    w = w.flip((2, 3))
    if groups == 1:
        return w.transpose(0, 1)
    outputs, inputs, ky, kx = w.shape
    w = w.reshape(groups, outputs // groups, inputs, ky, kx).transpose(1, 2)  # [G, I / G, O / G, kh, kw]
    return w.reshape(groups * inputs, outputs // groups, ky, kx)


class Activation(NamedTuple):
    """A pointwise function of (x, alpha), its usual alpha, and the gain that keeps unit variance about."""

    function: Callable[[Tensor, float], Tensor]
    alpha: float
    gain: float


SQRT2 = math.sqrt(2)
ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, SQRT2),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), 0.2, SQRT2),
    "tanh": Activation(lambda x, _: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, _: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, _: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, _: F.silu(x), 0.0, SQRT2),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    dim: int = 1,
) -> Tensor:
    """clamp(gain * act(x + b)), with b along `dim`; alpha: the slope of lrelu. None: the activation's usual value."""
    if act not in ACTIVATIONS:
        raise unknown("activation", act, ACTIVATIONS)
    function, usual_alpha, usual_gain = ACTIVATIONS[act]
    if b is not None:
        shape: list[Any] = [1] * x.ndim
        shape[dim] = -1
        x = x + b.to(x.dtype).view(shape)
    x = function(x, usual_alpha if alpha is None else alpha)
    gain = usual_gain if gain is None else gain
    x = x if gain == 1 else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: Pair = 1,
    down: Pair = 1,
    padding: Padding = 0,
    gain: float = SQRT2,
    slope: float = 0.2,
    clamp: float | None = None,
    flip: bool = False,
) -> Tensor:
    """Leaky ReLU of a band-limited signal: add b, upsample with fu, gain times leaky ReLU, clamp, downsample with fd.

    The frequencies that the non-linearity creates fit into the higher rate and are cut off by fd, so none folds back
    (arXiv:2106.12423, section 3.2, figure 4b). padding is that of the upsampling, at the upsampled rate.
    """
    ux, uy = pair(up, "up")
    if gain <= 0 or (clamp is not None and clamp < 0):
        raise UserError(f"filtered_lrelu has gain={gain}, clamp={clamp}; expected a gain above 0, a clamp from 0 on.")
    x = x if b is None else x + b.to(x.dtype)[:, None, None]
    x = upfirdn2d(x, fu, up=up, padding=padding, flip=flip, gain=ux * uy)
    if slope != 1:
        x = F.leaky_relu(x, slope)
    if clamp is not None:
        x = x.clamp(-clamp / gain, clamp / gain)
    return upfirdn2d(x, fd, down=down, flip=flip, gain=gain)  # the gain rides on the filter: a pass less up there
