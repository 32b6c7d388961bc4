"""Options of a training run: names, types, ranges, defaults and help, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RunConfig", "option_details"]

_MINI = {"strategy": ["mini"]}
_CLUSTER = {"strategy": ["cluster"]}
_LINK = {"task": ["link"]}
_PAIRS = {"task": ["edge", "link"]}


def _option(
    default: Any,
    panel: str,
    help: str,
    *,
    metavar: str = "NAME",
    without: str = "",
    requires: Mapping[str, list[str]] | None = None,
    resumable: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a field of `RunConfig`, which is also an option of `graphtheta train`.

    Args:
        default: Value if the option is omitted; `...` if there is none.
        panel: Heading of the option in the help.
        help: What the option does. Placeholders such as `{models}` are replaced by names in
            a registry.
        metavar: Placeholder of a text value in the help.
        without: Describes a default that is not a value.
        requires: Another option, and the values of it that this option has an effect with.
        resumable: Whether a resumed run may have another value: one that changes how long or
            where the run computes, not what it computes.
        constraints: Range of the value, as for `pydantic.Field`.
    """
    details: dict[str, Any] = {
        "panel": panel,
        "metavar": metavar,
        "without": without,
        "requires": dict(requires or {}),
        "resumable": resumable,
    }
    return Field(default, description=help, json_schema_extra=details, **constraints)


class RunConfig(BaseModel):
    """Configuration of one run. Field names are the keys of the TOML file.

    The command line makes its options from these fields: `batch_size` is `--batch-size`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: str = _option(
        ...,
        "Input",
        "Store, name of a bundled data set ({datasets}), or path or URI of a graph.",
        metavar="INPUT",
        resumable=True,
    )

    model: str = _option("gcn", "Model", "Model: {models}.")
    hidden: int = _option(
        16,
        "Model",
        "Features of a hidden layer, per head in models with attention; also the size of the "
        "node vectors that a decoder reads.",
        ge=1,
    )
    layers: int = _option(2, "Model", "Number of graph layers.", ge=1)
    heads: int = _option(8, "Model", "Number of attention heads, in models with attention.", ge=1)
    dropout: float = _option(
        0.5, "Model", "Dropout probability of node features and attention weights.", ge=0, lt=1
    )
    batch_norm: bool = _option(
        False, "Model", "Apply batch normalisation to hidden layers, over all workers."
    )
    num_bases: int | None = _option(
        None,
        "Model",
        "Number of basis matrices that the relations of R-GCN share.",
        without="a matrix per relation",
        ge=1,
    )
    embedding: int = _option(
        0,
        "Model",
        "Size of a learned vector of each node, concatenated to its features; 0 for none.",
        ge=0,
    )

    task: str = _option(
        "node",
        "Task",
        "Prediction task: {tasks}. node and edge predict a label, link whether an edge exists.",
    )
    label: str | None = _option(None, "Task", "Label to predict, if the graph has several.")
    split: str | None = _option(
        None, "Task", "Split into training, validation and test, if the graph has several."
    )
    decoder: str | None = _option(
        None,
        "Task",
        "Decoder that scores a pair of nodes (edge and link prediction): {decoders}.",
        without="mlp for edge; dot for link, or distmult if there is a relation column",
        requires=_PAIRS,
    )
    relation_column: str | None = _option(
        None,
        "Task",
        "Integer edge column of relations, for the decoder (edge and link prediction).",
        metavar="COLUMN",
        requires=_PAIRS,
    )
    negatives: int = _option(
        1, "Task", "Negative samples per positive edge (link prediction).", ge=1, requires=_LINK
    )
    corrupt: Literal["both", "dst", "src"] = _option(
        "both",
        "Task",
        "End of an edge that a negative sample replaces (link prediction); with both, one of the "
        "two, chosen at random.",
        requires=_LINK,
    )
    exclude_targets: bool | None = _option(
        None,
        "Task",
        "Pass no messages along the edges that a mini- or cluster-batch predicts, or along other "
        "edges between the same nodes (edge and link prediction).",
        without="only for link",
        requires=_PAIRS,
    )
    validation_messages: bool = _option(
        False,
        "Task",
        "Pass messages along validation edges when testing (link prediction).",
        requires=_LINK,
    )
    ranking: bool = _option(
        True,
        "Task",
        "Rank each validation and test edge among all nodes, for MRR and hits@k (link prediction).",
        requires=_LINK,
    )

    strategy: str = _option(
        "global",
        "Batches",
        "Batching strategy: {strategies}. A step trains on the whole graph, on some of its "
        "training nodes or edges, or on some communities.",
    )
    batch_size: int = _option(
        1024,
        "Batches",
        "Training nodes or edges in a mini-batch, over all workers.",
        ge=1,
        requires=_MINI,
    )
    fanouts: str = _option(
        "all",
        "Batches",
        "In-edges to sample per node (mini-batches): a number or all for each layer, first the "
        "layer next to the input, such as 15,10,5; or all for no sampling.",
        metavar="N,N,...",
        requires=_MINI,
    )
    replace: bool = _option(
        False, "Batches", "Sample edges with replacement (mini-batches).", requires=_MINI
    )
    edge_weight: str | None = _option(
        None,
        "Batches",
        "Edge column of sampling weights (mini-batches).",
        metavar="COLUMN",
        without="sample uniformly",
        requires=_MINI,
    )
    clusters_per_batch: int = _option(
        20, "Batches", "Communities in a batch (cluster-batches).", ge=1, requires=_CLUSTER
    )
    communities: str = _option(
        "louvain",
        "Batches",
        "Name of communities in the store, or hanp to detect them before training "
        "(cluster-batches).",
        requires=_CLUSTER,
    )
    only: str | None = _option(
        None,
        "Batches",
        "Numbers of the communities to train on, such as 3,7 (cluster-batches).",
        metavar="N,N,...",
        without="all",
        requires=_CLUSTER,
    )
    boundary_hops: int = _option(
        0,
        "Batches",
        "Hops of in-neighbours to add to the communities (cluster-batches). As many as there are "
        "layers is exact.",
        ge=0,
        requires=_CLUSTER,
    )
    renormalise: bool = _option(
        False,
        "Batches",
        "Normalise by the degrees in the batch instead of the graph (cluster-batches).",
        requires=_CLUSTER,
    )
    micro_batches: int = _option(
        1,
        "Batches",
        "Micro-batches that a step is divided into. Groups of workers take them from a queue.",
        ge=1,
        resumable=True,
    )
    prefetch: int = _option(
        0,
        "Batches",
        "Batches to prepare in the background. Does not change the result.",
        ge=0,
        resumable=True,
    )

    epochs: int = _option(
        200, "Training", "Number of epochs, including those before a resume.", ge=1, resumable=True
    )
    optimizer: str = _option("adam", "Training", "Optimiser: {optimizers}.")
    lr: float = _option(0.01, "Training", "Learning rate.", gt=0)
    weight_decay: float = _option(5e-4, "Training", "Weight decay of all parameters.", ge=0)
    seed: int = _option(
        0, "Training", "Random seed for initial weights, dropout and sampling.", ge=0, lt=2**63
    )
    evaluate_every: int = _option(
        1, "Training", "Epochs between evaluations on validation and test.", ge=1
    )
    patience: int | None = _option(
        None,
        "Training",
        "Epochs without a better validation metric after which to stop.",
        without="never stop early",
        ge=0,
        resumable=True,
    )

    method: str | None = _option(
        None,
        "Input",
        "Partitioner of an input that is not a store: {methods}.",
        without="node-hash",
    )
    undirected: bool = _option(
        False, "Input", "Add the reverse of every edge of an input that is not a store."
    )

    run_dir: Path = _option(
        ...,
        "Run",
        "Directory to write the run to: configuration, metrics, checkpoints, weights.",
        resumable=True,
    )
    checkpoint_every: int = _option(
        0,
        "Run",
        "Epochs between checkpoints; 0 for a checkpoint only at the end, and on SIGTERM or "
        "SIGUSR1.",
        ge=0,
        resumable=True,
    )

    device: Literal["cpu", "cuda"] = _option(
        "cpu",
        "Machine",
        "Device. With cuda, each worker of a host takes one of its GPUs.",
        resumable=True,
    )
    threads: int | None = _option(
        None,
        "Machine",
        "Threads per worker.",
        without="cores of the host divided by its workers",
        ge=1,
        resumable=True,
    )
    groups: int = _option(
        1,
        "Machine",
        "Groups that the workers are divided into, each with the whole graph. Does not change the "
        "result.",
        ge=1,
        resumable=True,
    )
    timeout: float = _option(
        1800.0,
        "Machine",
        "Seconds to wait for another worker before the job is aborted.",
        gt=0,
        resumable=True,
    )

    def record(self) -> dict[str, Any]:
        """Return the content of `config.toml`: all but the run directory, which may be moved."""
        return self.model_dump(mode="json", exclude={"run_dir"}, exclude_none=True)


def option_details(name: str) -> Mapping[str, Any]:
    """Return what `_option` declares of a field apart from its type, range and default."""
    return cast(dict[str, Any], RunConfig.model_fields[name].json_schema_extra)
