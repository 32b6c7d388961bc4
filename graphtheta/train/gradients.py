"""Reduce, the fifth stage of NN-TGAR: sum the gradients of parameters over all workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from graphtheta.comm.checks import compare_fingerprints
from graphtheta.comm.communicator import Communicator
from graphtheta.nn.embedding import is_sharded
from graphtheta.tgar import View

__all__ = [
    "BUCKET_BYTES",
    "assign_gradients",
    "broadcast_model",
    "flatten_gradients",
    "gradient_buckets",
    "reduce_gradients",
    "sum_gradients",
]

BUCKET_BYTES = 32 << 20


def reduce_gradients(parameters: Iterable[nn.Parameter], comm: Communicator) -> None:
    """Replace every gradient by its sum over the workers, or by zero if no worker has one.

    With a zero gradient, weight decay also applies to parameters that a step does not read, on any
    number of workers.

    Args:
        parameters: Parameters in registration order, the same on every worker. Frozen parameters
            are left out, and so are sharded ones, whose gradients are already complete.
        comm: All workers of the job.

    Communication:
        One all-reduce for each bucket of at most 32 MiB; in total the bytes of all parameters.
    """
    for bucket in gradient_buckets(parameters):
        if comm.size == 1:
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            continue
        gradient = flatten_gradients(bucket)
        comm.all_reduce(gradient.numpy(), stage="reduce gradients")
        assign_gradients(gradient, bucket)


def sum_gradients(model: nn.Module, *views: View) -> None:
    """Replace every gradient by its sum over the workers, in a training loop of one's own.

    Collective.

    Args:
        model: The model, after `(loss + view.token).backward()`.
        views: View of the batch, or of all batches since the last update.

    Raises:
        ConfigError: If `backward` was called without the token of a view.
    """
    for view in views:
        view.need_backward()
    reduce_gradients(model.parameters(), views[0].shard.comm)


def gradient_buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters to reduce in order, in buckets of one dtype and at most 32 MiB.

    Frozen and sharded parameters are left out.
    """
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad or is_sharded(parameter):
            continue
        num_bytes = parameter.numel() * parameter.element_size()
        if bucket and (parameter.dtype != bucket[0].dtype or size + num_bytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += num_bytes
    if bucket:
        yield bucket


def flatten_gradients(bucket: Sequence[nn.Parameter]) -> Tensor:
    """Return the gradients of parameters, zeros for missing ones, as one tensor on the CPU."""
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).cpu() for p in bucket]
    )


def assign_gradients(gradient: Tensor, bucket: Sequence[nn.Parameter]) -> None:
    """Set the gradients of parameters from one tensor, the inverse of `flatten_gradients`."""
    slices = torch.split(gradient, [p.numel() for p in bucket])
    for parameter, values in zip(bucket, slices, strict=True):
        parameter.grad = values.reshape(parameter.shape).to(parameter.device)


def broadcast_model(model: nn.Module, comm: Communicator) -> None:
    """Copy the parameters and buffers of rank 0 to all workers; collective.

    Raises:
        CollectiveMismatch: If the workers' models differ in names, shapes or dtypes.
    """
    if comm.size == 1:
        return
    state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor for name, tensor in state.items() if not is_sharded(tensor)}
    compare_fingerprints(
        comm, "model " + ", ".join(f"{n} {tuple(t.shape)} {t.dtype}" for n, t in state.items())
    )
    with torch.no_grad():
        for name, tensor in state.items():
            values = tensor.detach().cpu().contiguous().clone()
            comm.broadcast(values.reshape(-1).numpy(), stage=f"broadcast {name}")
            tensor.copy_(values)
