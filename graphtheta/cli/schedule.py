"""`graphtheta schedule`: predict losses from learning rates, and find a better schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphtheta.cli.terminal.help import Command, argument, command_group, option
from graphtheta.cli.terminal.show import show_rows
from graphtheta.wording import counted

__all__ = ["schedule"]

schedule = command_group()


@schedule.callback(invoke_without_command=True)
def _schedule(context: typer.Context) -> None:
    """Predict losses from learning rates, and find a schedule with a lower final loss.

    fit fits a law to the loss curves of a few runs with different schedules; optimise finds the
    schedule that minimises the final loss by that law; train --schedule trains by it.

    Example:
      graphtheta schedule fit runs/constant runs/cosine runs/step --output law.json
      graphtheta schedule optimise law.json --epochs 200 --output found.json
      graphtheta train store --schedule found.json --epochs 200 --run-dir runs/found
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@schedule.command("fit", cls=Command)
def _fit(
    runs: Annotated[list[Path], argument("RUN...")],
    output: Annotated[Path, option("FILE", default=False)],
    holdout: Annotated[list[Path] | None, option("RUN", default=False)] = None,
    loss: Annotated[str, option("NAME")] = "loss",
) -> None:
    """Fit the multi-power law to the loss curves of runs.

    Prints the error of the law on each run after its warm-up, and its prediction for the last
    epochs (5 % of them). The law is that of Luo et al. 2025.

    Args:
        runs: Directories of runs of one model on one graph, with different schedules.
        output: File to write the law to.
        holdout: Directory of a run that the law is not fitted to, to see how well it predicts;
            can be repeated.
        loss: Loss to predict: loss, which is the training loss, or one such as val_loss.

    Example:
      graphtheta schedule fit runs/constant runs/cosine --holdout runs/step --output law.json
    """
    from graphtheta.loss_law import FitError, LawFile, fit_law, read_curve

    curves = [read_curve(run, loss) for run in runs]
    unseen = [read_curve(run, loss) for run in holdout or ()]
    law = fit_law(curves)
    peak = max(float(curve.lr.max()) for curve in curves)
    LawFile.of(law, peak, loss, [curve.name for curve in curves]).write(output)
    rows = []
    for used, some in (("fitted", curves), ("not fitted", unseen)):
        for error in (FitError.of(law, curve) for curve in some):
            numbers = (error.predicted, error.measured)
            shares = (error.mean, error.largest)
            cells = [*(f"{n:.4f}" for n in numbers), *(f"{100 * share:.2f} %" for share in shares)]
            rows.append((error.name, used, *cells))
    head = ("run", "", "predicted", "measured", "mean error", "largest")
    show_rows(rows, head=head)
    print(f"wrote the law to {output}; next: graphtheta schedule optimise {output} --epochs N")


@schedule.command("optimise", cls=Command)
def _optimise(
    law: Annotated[Path, argument("LAW")],
    epochs: Annotated[int, option("INTEGER", default=False, min=2)],
    output: Annotated[Path, option("FILE", default=False)],
    lr: Annotated[
        float | None, option("FLOAT", default="largest learning rate of the fitted runs")
    ] = None,
    warmup: Annotated[int, option("INTEGER", min=0)] = 0,
) -> None:
    """Find the schedule of learning rates with the lowest predicted final loss.

    Args:
        law: File that graphtheta schedule fit wrote.
        epochs: Number of epochs to train.
        output: File to write the schedule to, for graphtheta train --schedule.
        lr: Largest learning rate.
        warmup: Epochs in which the learning rate rises to the largest.

    Example:
      graphtheta schedule optimise law.json --epochs 200 --output found.json
    """
    import json

    import numpy as np

    from graphtheta.errors import ConfigError
    from graphtheta.loss_law import LawFile, best_schedule
    from graphtheta.runtime.atomic import atomic_file, disk_errors

    read = LawFile.read(law)
    peak = read.peak if lr is None else lr
    if warmup >= epochs:
        raise ConfigError(
            f"--warmup: expected fewer than the {counted(epochs, 'epoch')} of the schedule, got "
            f"{warmup}. Choose fewer."
        )
    if not 0 < peak < float("inf"):
        raise ConfigError(f"--lr: expected a number above 0, got {peak}. Choose another.")
    found = best_schedule(read.fitted, epochs, peak, warmup=warmup)
    cosine = np.concatenate(
        [found[:warmup], peak / 2 * (1 + np.cos(np.pi * np.arange(epochs - warmup) / epochs))]
    )
    with disk_errors(output, "the schedule", ConfigError), atomic_file(output) as file:
        file.write_text(json.dumps({"by": "epoch", "lr": found.tolist()}) + "\n")
    rows = [
        (name, f"{read.fitted.predict(rates)[-1]:.4f}")
        for name, rates in (("found", found), ("cosine", cosine))
    ]
    show_rows(rows, head=("schedule", f"predicted {read.column} of the last epoch"))
    if peak > read.peak:
        print(
            f"note: the law was fitted to learning rates up to {read.peak:g}; {peak:g} is beyond "
            "them, and so is the prediction"
        )
    print(f"wrote the schedule to {output}; next: graphtheta train ... --schedule {output}")
