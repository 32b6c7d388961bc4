"""Reduce, the fifth stage: sum parameter gradients over all workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.fingerprint import compare_fingerprints
from graphtheta.nn.embedding import is_of_masters

__all__ = ["BUCKET_BYTES", "broadcast_model", "reduce_gradients"]

BUCKET_BYTES = 32 << 20


def reduce_gradients(parameters: Iterable[nn.Parameter], comm: Communicator) -> None:
    """Replace every gradient by its sum over workers, zero where a worker has none.

    Args:
        parameters: In registration order, the same on every worker; frozen ones are left out, and
            those of masters, whose gradients are whole where they are.
        comm: All workers of the job.

    Communication:
        One all-reduce a bucket of at most 32 MiB of one type; bytes of all parameters in total.
    """
    if comm.size == 1:
        return
    shared = [p for p in parameters if p.requires_grad and not is_of_masters(p)]
    for bucket in _buckets(shared):
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).cpu() for p in bucket]
        )
        comm.all_reduce(flat.numpy(), stage="reduce gradients")
        for parameter, grad in zip(
            bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True
        ):
            parameter.grad = grad.reshape(parameter.shape).to(parameter.device)


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        num_bytes = parameter.numel() * parameter.element_size()
        if bucket and (parameter.dtype != bucket[0].dtype or size + num_bytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += num_bytes
    if bucket:
        yield bucket


def broadcast_model(model: nn.Module, comm: Communicator) -> None:
    """Give every worker rank 0's parameters and buffers.

    Raises:
        CollectiveMismatch: If the workers' models differ in names, shapes or types.
    """
    if comm.size == 1:
        return
    state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor for name, tensor in state.items() if not is_of_masters(tensor)}
    compare_fingerprints(
        comm, "model " + ", ".join(f"{n} {tuple(t.shape)} {t.dtype}" for n, t in state.items())
    )
    with torch.no_grad():
        for name, tensor in state.items():
            values = tensor.detach().cpu().contiguous().clone()
            comm.broadcast(values.reshape(-1).numpy(), stage=f"broadcast {name}")
            tensor.copy_(values)
