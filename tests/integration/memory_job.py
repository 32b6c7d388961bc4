"""One rank of test_memory: open a part under a cap below the whole graph, and train an epoch."""

from __future__ import annotations

import resource
import sys

import torch

import graphtheta as gt
from graphtheta.comm.launch import guarded


def data_bytes() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))


def main() -> None:
    store, cap = sys.argv[1], int(sys.argv[2])
    comm = gt.communicator(timeout_s=60)
    torch.set_num_threads(1)
    train(gt.open_shard(gt.datasets.load("cora"), comm))  # libraries load, kernels compile
    base = data_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (base + cap, base + cap))
    shard = gt.open_shard(store, comm)
    train(shard)
    print(f"rank {comm.rank} used {(data_bytes() - base) >> 20} MiB of {cap >> 20}", flush=True)


def train(shard: gt.Shard) -> None:
    model = gt.nn.GraphSAGE(shard.num_features, 8, shard.num_classes, dropout=0.5)
    gt.Trainer(model, shard).fit(1)


if __name__ == "__main__":
    sys.exit(guarded(main))
