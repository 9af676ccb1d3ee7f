"""Several processes as one: started by torchrun, no wrapper modules.

Every process holds the whole game and sees its slice of the global batch. What is averaged (gradients, terms, running
statistics) is flattened and reduced once per move, so the processes stay equal to rounding and a checkpoint needs one
of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from saddlepoint.watch import Watch

_watches: list[Watch] = []  # of the group that this process is in: none, or one


def world_size() -> int:
    """Number of processes; 1 when torch.distributed is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to world_size - 1."""
    return dist.get_rank() if world_size() > 1 else 0


def start(device: torch.device) -> torch.device:
    """Join the processes that torchrun started (environment variable WORLD_SIZE); returns this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            number, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            dist.init_process_group(backend, store=_store_of_this_attempt(), rank=number, world_size=world)
        else:
            dist.init_process_group(backend)
    return device


def _store_of_this_attempt() -> Any:
    """torchrun's store, without what earlier attempts left in it.

    torchrun keeps one store over its restarts, and torch before and in 2.13 sets no prefix: processes that were started
    again would find the addresses of dead ones there and be refused (pytorch issue 135712).
    """
    server = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    return dist.PrefixStore(f"saddlepoint/attempt-{restarts()[0]}", server)  # type: ignore[attr-defined]


def stop(error: BaseException | None = None) -> None:
    """Leave the group, if there is one. error: what the others hear if this process ends and they do not."""
    while _watches:
        _watches.pop().leave(error)
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def session(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started and leave them at the end; a group that was there before stays.

    From the inside on, a process that dies ends all others (see `watch`).
    """
    before = dist.is_available() and dist.is_initialized()
    place = start(device)
    if world_size() > 1:
        _watches.append(Watch(rank(), world_size(), agreed))
    failed: BaseException | None = None
    try:
        yield place
    except BaseException as error:
        failed = error
        if isinstance(error, RuntimeError) and _watches:
            _watches[-1].settle()
        raise
    finally:
        if before and _watches:
            _watches.pop().leave(failed)
        if not before:
            stop(failed)


def advise(advice: Callable[[], str]) -> None:
    """What to say besides when a process dies: called at that moment."""
    for watch in _watches:
        watch.advice = advice


def restarts() -> tuple[int, int]:
    """(how often torchrun has started these processes again, how often it may); zeros without torchrun."""
    done, allowed = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return done, allowed


def leave(status: int) -> NoReturn:
    """End this process of several without tearing the interpreter down.

    gloo's threads may outlive the group, and now and then abort a process whose work is done (torch 2.13).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def barrier() -> None:
    """Wait for the other processes."""
    if world_size() > 1:
        dist.barrier()


def mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place, with one all-reduce per precision."""
    if world_size() == 1 or not tensors:
        return
    for dtype in sorted({t.dtype for t in tensors}, key=str):
        group = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in group])
        dist.all_reduce(flat)
        flat /= world_size()
        for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def broadcast_(tensors: Sequence[Tensor]) -> None:
    """Give every process the values of process 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def any_true(flag: bool) -> bool:
    """True on every process if it is true on one (an interrupt reaches one process only)."""
    if world_size() == 1:
        return flag
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    value = torch.tensor([float(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def agreed(text: str) -> str:
    """Process 0's text, on every process."""
    if world_size() == 1:
        return text
    box = [text]
    dist.broadcast_object_list(box, 0)
    return box[0]


def gathered(value: Any) -> list[Any]:
    """Every process's value (plain values and arrays, sent as pickles among our own processes), in their order."""
    if world_size() == 1:
        return [value]
    box: list[Any] = [None] * world_size()
    dist.all_gather_object(box, value)
    return box


def disagreement(tensors: Sequence[Tensor]) -> float:
    """Largest absolute difference of any tensor from process 0's copy: 0 as long as the processes are one."""
    if world_size() == 1 or not tensors:
        return 0.0
    flat = torch.cat([t.detach().reshape(-1).double() for t in tensors])
    reference = flat.clone()
    dist.broadcast(reference, 0)
    worst = (flat - reference).abs().max().reshape(1)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return float(worst.item())


class _MeanOverProcesses(torch.autograd.Function):
    """Mean over processes; the adjoint of a mean over processes is itself one, so any order of derivative exists."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / world_size()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return mean(gradients[0])


def mean(x: Tensor) -> Tensor:
    """Differentiable mean over the processes: a loss of batch statistics then has the big batch's exact gradients."""
    if world_size() == 1:
        return x
    result: Tensor = _MeanOverProcesses.apply(x)
    return result
