"""Options of a training run: names, types, ranges, defaults and help, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict

from graphtheta.run.option import declare_option

__all__ = ["RunConfig", "option_details"]


# Options by section of the help, and those that have an effect only with certain tasks or
# strategies.
_input = partial(declare_option, panel="Input")
_model = partial(declare_option, panel="Model")
_task = partial(declare_option, panel="Task")
_labelled = partial(_task, requires={"task": ["node", "edge"]})
_link = partial(_task, requires={"task": ["link"]})
_pairs = partial(_task, requires={"task": ["edge", "link"]})
_batches = partial(declare_option, panel="Batches")
_mini = partial(_batches, requires={"strategy": ["mini"]})
_cluster = partial(_batches, requires={"strategy": ["cluster"]})
_training = partial(declare_option, panel="Training")
_schedule = partial(
    _training, requires={"schedule": ["constant", "step", "cosine", "linear", "wsd"]}
)
_run = partial(declare_option, panel="Run", resumable=True)
_machine = partial(declare_option, panel="Machine", resumable=True)


class RunConfig(BaseModel):
    """Configuration of one run. Field names are the keys of the TOML file.

    The command line makes its options from these fields: `batch_size` is `--batch-size`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: str = _input(
        ...,
        "Store, name of a bundled data set ({datasets}), or path or URI of a graph.",
        metavar="INPUT",
        resumable=True,
    )

    model: str = _model("gcn", "Model: {models}.")
    hidden: int = _model(
        16,
        "Features of a hidden layer, per head in models with attention; also the size of the "
        "node vectors that a decoder reads.",
        ge=1,
    )
    layers: int = _model(
        2, "Number of graph layers; of appnp, sgc and sign, of propagation steps.", ge=1
    )
    heads: int = _model(8, "Number of attention heads, in models with attention.", ge=1)
    dropout: float = _model(
        0.5, "Dropout probability of node features and attention weights.", ge=0, lt=1
    )
    batch_norm: bool = _model(
        False, "Apply batch normalisation to hidden layers, over all workers."
    )
    norm: Literal["batch", "layer"] | None = _model(
        None,
        "Normalise the outputs of hidden layers: batch over the nodes of all workers, layer over "
        "the columns of each node.",
        without="no normalisation",
    )
    residual: bool = _model(
        False, "Add the input of each hidden layer to its output (residual connections)."
    )
    jumping_knowledge: Literal["cat", "max", "last"] | None = _model(
        None,
        "Join the outputs of all layers before a last linear map: cat side by side, max by their "
        "largest values, last takes those of the last layer.",
        without="the last layer returns the outputs",
    )
    num_bases: int | None = _model(
        None,
        "Number of basis matrices that the relations of R-GCN share.",
        without="a matrix per relation",
        ge=1,
    )
    weighted: bool | None = _model(
        None,
        "Multiply messages by the edge column weight (gcn, sage, gin, appnp, gcnii, sgc, sign).",
        without="if the graph has the column, except for sage and gin",
        requires={"model": ["gcn", "sage", "gin", "appnp", "gcnii", "sgc", "sign"]},
    )
    alpha: float = _model(
        0.1,
        "Share of a node's own rows in each step: the teleport of appnp, the initial residual of "
        "gcnii.",
        ge=0,
        le=1,
        requires={"model": ["appnp", "gcnii"]},
    )
    theta: float = _model(
        0.5, "Strength of the matrices of gcnii.", gt=0, requires={"model": ["gcnii"]}
    )
    embedding: int = _model(
        0,
        "Size of a learned vector of each node, concatenated to its features; 0 for none. In a "
        "graph of several node types, size of the input of the model, or 0 for that of a hidden "
        "layer: types without features have learned vectors, those of others are mapped to it.",
        ge=0,
    )
    embedding_types: str | None = _model(
        None,
        "Node types that have learned vectors in addition to their features, in a graph of several "
        "node types: names such as paper,author; or all.",
        metavar="TYPE,TYPE,...",
        without="none",
    )
    embedding_storage: Path | None = _model(
        None,
        "Directory for learned vectors and the state of their optimiser, which are then mapped "
        "from files: for those that are larger than memory.",
        without="in memory",
        resumable=True,
    )

    task: str = _task(
        "node",
        "Prediction task: {tasks}. node and edge predict a label, link whether an edge exists.",
    )
    label: str | None = _task(
        None,
        "Name of the label to predict, such as y; in a graph of several types, such as package.y.",
        without="y, or the only one",
    )
    split: str | None = _task(
        None,
        "Name of the split into training, validation and test.",
        without="split, or the only one",
    )
    target_type: str | None = _task(
        None,
        "Node type whose label to predict, in a graph of several (node prediction). The name of "
        "the label may then be plain.",
        metavar="TYPE",
        without="that of the label",
        requires={"task": ["node"]},
    )
    relation: str | None = _pairs(
        None,
        "Relation whose edges to predict, in a graph of several, such as user-rates-item (edge and "
        "link prediction). The names of label and split may then be plain.",
        metavar="SOURCE-NAME-DESTINATION",
        without="that of the label or split",
    )
    loss: str | None = _task(
        None,
        "Loss function: {losses}.",
        without="cross-entropy for classes and links, mse for numbers",
    )
    label_smoothing: float = _task(
        0.0,
        "Share of the target that is spread over all classes (--loss cross-entropy).",
        requires={"loss": ["cross-entropy"]},
        ge=0,
        lt=1,
    )
    focal_gamma: float = _task(
        2.0,
        "Exponent by which targets that are predicted with confidence count less (--loss focal).",
        requires={"loss": ["focal"]},
        ge=0,
    )
    class_weight: str | dict[str, float] | None = _task(
        None,
        "Weights of classes in the loss: balanced, so that all classes count the same; weights by "
        "name or number, such as fraud=20,ok=1; or a TOML or JSON file of them. Those of links are "
        "false for negative samples and true for edges.",
        metavar="balanced|NAME=WEIGHT,...|FILE",
        without="1 for all",
    )
    loss_weight: str | None = _task(
        None,
        "Column, or label of numbers, that weighs the nodes or edges in the loss, with the "
        "negative samples of an edge.",
        metavar="COLUMN",
        without="1 for all",
    )
    metrics: str | None = _task(
        None,
        "Metrics of each split, in addition to the loss: {metrics}, recall@0.9precision, "
        "precision@0.9recall, top5_accuracy, or another of torchmetrics, such as cohen_kappa; for "
        "link also auc, mrr and hits@N.",
        metavar="NAME,NAME,...",
        without="by the kind of the label; auc, mrr and hits@1, 3, 10 of links",
    )
    monitor: str | None = _task(
        None,
        "Metric of the validation split that chooses the best epoch, or loss.",
        without="accuracy of classes, f1 of multi-labels, rmse of numbers; of yes-or-no labels "
        "auroc, or average_precision if less than a tenth are positive; mrr or auc of links",
    )
    positive: str | None = _labelled(
        None,
        "Class of two that the metrics and the threshold are about.",
        metavar="CLASS",
        without="the second, or the first if only that is less than a tenth",
    )
    decoder: str | None = _pairs(
        None,
        "Decoder that scores a pair of nodes (edge and link prediction): {decoders}.",
        without="mlp for edge; dot for link, or distmult if there is a relation column",
    )
    relation_column: str | None = _pairs(
        None,
        "Integer edge column of relations, for the decoder (edge and link prediction).",
        metavar="COLUMN",
    )
    negatives: int = _link(1, "Negative samples per positive edge (link prediction).", ge=1)
    corrupt: Literal["both", "dst", "src"] = _link(
        "both",
        "End of an edge that a negative sample replaces (link prediction); with both, one of the "
        "two, chosen at random.",
    )
    candidates: str | None = _link(
        None,
        "Nodes that replace an endpoint in negative samples and ranks (link prediction): those "
        "with the same value in this node column, such as user or item. all takes all nodes.",
        metavar="COLUMN",
        without="nodes of the same type, if there are several; else with the same role in other "
        "edges, or with a relation column all for ranks",
    )
    exclude_targets: bool | None = _pairs(
        None,
        "Pass no messages along the edges that a mini- or cluster-batch predicts, or along other "
        "edges between the same nodes (edge and link prediction).",
        without="only for link",
    )
    validation_messages: bool = _link(
        False, "Pass messages along validation edges when testing (link prediction)."
    )
    split_pairs: bool = _link(
        False,
        "Pass no messages along edges between the same two nodes as a validation or test edge, and "
        "do not train on them (link prediction).",
    )
    ranking: bool = _link(
        True,
        "Rank each validation and test edge among all candidates, for MRR and hits@k (link "
        "prediction).",
    )

    strategy: str = _batches(
        "global",
        "Batching strategy: {strategies}. A step trains on the whole graph, on some of its "
        "training nodes or edges, or on some communities.",
    )
    batch_size: int = _mini(
        1024, "Training nodes or edges in a mini-batch, over all workers.", ge=1
    )
    fanouts: str | dict[str, str] = _mini(
        "all",
        "In-edges to sample per node (mini-batches): a number or all for each layer, first the "
        "layer next to the input, such as 15,10,5; or all for no sampling. In a graph of several "
        "relations also once for each of them, such as author-writes-paper=15,10.",
        metavar="[RELATION=]N,N,...",
    )
    replace: bool = _mini(False, "Sample edges with replacement (mini-batches).")
    edge_weight: str | None = _mini(
        None,
        "Edge column of sampling weights (mini-batches).",
        metavar="COLUMN",
        without="sample uniformly",
    )
    clusters_per_batch: int = _cluster(20, "Communities in a batch (cluster-batches).", ge=1)
    communities: str = _cluster(
        "leiden",
        "Name of communities that graphtheta communities added to the store, or hanp to detect "
        "some before training (cluster-batches).",
    )
    only: str | None = _cluster(
        None,
        "Numbers of the communities to train on, such as 3,7 (cluster-batches).",
        metavar="N,N,...",
        without="all",
    )
    boundary_hops: int = _cluster(
        0,
        "Hops of in-neighbours to add to the communities (cluster-batches). As many as there are "
        "layers is exact.",
        ge=0,
    )
    renormalise: bool = _cluster(
        False, "Normalise by the degrees in the batch instead of the graph (cluster-batches)."
    )
    micro_batches: int = _batches(
        1,
        "Micro-batches that a step is divided into. Groups of workers take them from a queue.",
        ge=1,
        resumable=True,
    )
    delay: int = _batches(
        0,
        "Updates by which the parameters that a step is computed on are behind, so that a "
        "parameter service has this many more steps in flight (graphtheta parameters).",
        ge=0,
    )
    prefetch: int = _batches(
        0, "Batches to prepare in the background. Does not change the result.", ge=0, resumable=True
    )

    epochs: int = _training(
        200, "Number of epochs, including those before a resume.", ge=1, resumable=True
    )
    optimizer: str = _training("adam", "Optimiser: {optimizers}.")
    lr: float = _training(0.01, "Learning rate.", gt=0)
    weight_decay: float = _training(5e-4, "Weight decay of all parameters.", ge=0)
    decay_biases: bool = _training(
        True, "Include biases and the scales of norms in the weight decay."
    )
    clip: float | None = _training(
        None,
        "Largest global norm of the gradients of a step; larger ones are scaled down to it.",
        without="no clipping",
        gt=0,
    )
    schedule: str = _training(
        "constant",
        "Schedule of the learning rate: {schedules}; or a JSON file with a list of learning rates, "
        'as {{"lr": [0.01, 0.005], "by": "epoch"}}.',
        metavar="NAME|FILE.json",
    )
    warmup: float = _schedule(
        0, "Steps or epochs in which the learning rate rises, or below 1 their share.", ge=0
    )
    schedule_by: Literal["step", "epoch"] = _schedule(
        "step", "Change the learning rate with every step or with every epoch."
    )
    final_share: float = _schedule(
        0.0,
        "Learning rate at the end, as a share of --lr.",
        requires={"schedule": ["cosine", "linear", "wsd"]},
        ge=0,
    )
    decay: float = _schedule(
        0.2,
        "Steps or epochs of the decay at the end, or below 1 their share (wsd).",
        requires={"schedule": ["wsd"]},
        ge=0,
    )
    decay_shape: Literal["linear", "sqrt", "cosine"] = _schedule(
        "linear", "Curve of the decay at the end (wsd).", requires={"schedule": ["wsd"]}
    )
    decay_every: float | None = _schedule(
        None,
        "Steps or epochs between two changes of the learning rate, or below 1 their share (step).",
        without="a third",
        requires={"schedule": ["step"]},
        gt=0,
    )
    decay_factor: float = _schedule(
        0.1, "Factor of each change (step).", requires={"schedule": ["step"]}, gt=0
    )
    precision: Literal["full", "bf16"] = _training(
        "full", "Compute the products of training in bfloat16 with bf16, on the CPU."
    )
    accumulate: int = _training(1, "Batches whose gradients one update sums.", ge=1)
    seed: int = _training(
        0, "Random seed for initial weights, dropout and sampling.", ge=0, lt=2**63
    )
    evaluate_every: int = _training(1, "Evaluate validation and test after every N-th epoch.", ge=1)
    patience: int | None = _training(
        None,
        "Epochs without a better validation metric after which to stop.",
        without="never stop early",
        ge=0,
        resumable=True,
    )

    method: str | None = _input(
        None, "Partitioner of an input that is not a store: {methods}.", without="node-hash"
    )
    undirected: bool = _input(
        False,
        "Add the reverse of every edge when the input is partitioned. A store must have been made "
        "with --undirected already.",
    )
    add_reverse: bool = _input(
        False,
        "Add the relation rev_NAME for each relation when the input is partitioned. A store must "
        "have been made with --add-reverse already.",
    )
    drop_self_loops: bool = _input(
        False,
        "Drop edges from a node to itself when the input is partitioned. A store must have been "
        "made with --drop-self-loops already.",
    )
    drop_duplicates: bool = _input(
        False,
        "Keep only the first of equal edges when the input is partitioned. A store must have been "
        "made with --drop-duplicates already.",
    )
    drop_unknown: bool = _input(
        False,
        "Drop edges from or to an id that the node table lacks when the input is partitioned.",
    )

    run_dir: Path = _run(
        ..., "Directory to write the run to: configuration, metrics, checkpoints, weights."
    )
    checkpoint_every: int = _run(
        0,
        "Epochs between checkpoints; 0 for none by the number of epochs. One is always saved at "
        "the end, and on SIGTERM or SIGUSR1.",
        ge=0,
    )
    checkpoint_seconds: float = _run(
        600.0,
        "Save a checkpoint when the last one is this many seconds old, also within an epoch; 0 for "
        "never.",
        ge=0,
    )

    device: Literal["cpu", "cuda"] = _machine(
        "cpu", "Device. With cuda, each worker of a host takes one of its GPUs."
    )
    threads: int | None = _machine(
        None, "Threads per worker.", without="cores of the host divided by its workers", ge=1
    )
    groups: int = _machine(
        1,
        "Groups that the workers are divided into, each with the whole graph. Does not change the "
        "result.",
        ge=1,
    )
    timeout: float = _machine(
        1800.0, "Seconds to wait for another worker before the job is aborted.", gt=0
    )

    def record(self) -> dict[str, Any]:
        """Return the content of `config.toml`: all but the run directory, which may be moved."""
        return self.model_dump(mode="json", exclude={"run_dir"}, exclude_none=True)


def option_details(name: str) -> Mapping[str, Any]:
    """Return what `declare_option` declares of a field apart from its type, range and default."""
    return cast(dict[str, Any], RunConfig.model_fields[name].json_schema_extra)
