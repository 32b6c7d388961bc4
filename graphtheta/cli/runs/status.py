"""`graphtheta status`: what a parameter service, or a run, is doing now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from graphtheta.cli.terminal.help import argument, flag, option
from graphtheta.cli.terminal.show import show_rows
from graphtheta.cli.terminal.tls import client_tls
from graphtheta.errors import ConfigError
from graphtheta.train.run_dir import RunDirectory
from graphtheta.wording import counted

__all__ = ["status"]

_WAIT_S = 5.0


def status(
    target: Annotated[str, argument("HOST:PORT|RUN")],
    as_json: Annotated[bool, flag("--json")] = False,
    tls_ca: Annotated[Path | None, option("FILE")] = None,
    tls_cert: Annotated[Path | None, option("FILE")] = None,
    tls_key: Annotated[Path | None, option("FILE")] = None,
) -> None:
    """Show what a parameter service, or a run, is doing: epochs, steps, losses and groups.

    Args:
        target: Address of a parameter service, or directory of a run (--run-dir).
        as_json: Print everything as JSON.
        tls_ca: Certificate authority of the service (PEM). Enables TLS.
        tls_cert: Certificate of this client (PEM), for services that require one.
        tls_key: Private key of --tls-cert (PEM).

    Example:
      graphtheta status 127.0.0.1:7500
    """
    folder = Path(target)
    address = target
    if folder.is_dir():
        files = RunDirectory(folder, resume=True)
        found = _of_run(files) | {"address": files.service_address()}
        address = str(found["address"] or "")
        if not address:
            print(json.dumps(found)) if as_json else _show_run(found)
            return

    elif ":" not in target:
        raise ConfigError(
            f"status: expected HOST:PORT of a parameter service, or the directory of a run, got "
            f"'{target}'. Check the path."
        )

    from graphtheta.engine.client.parameters import ParameterClient

    client = ParameterClient(address, tls=client_tls(tls_ca, tls_cert, tls_key), wait_s=_WAIT_S)
    try:
        state = client.status()
    finally:
        client.close()
    print(json.dumps(state)) if as_json else _show_service(state)


def _of_run(files: RunDirectory) -> dict[str, Any]:
    """Return the epochs of a run from its files."""
    if not files.holds_run:
        raise ConfigError(
            f"{files.path}: expected the directory of a run, with config.toml, got another. Use "
            "the --run-dir of graphtheta train."
        )
    last = files.last_metrics()
    return {"finished": files.summary.exists(), "epochs": int(last.get("epoch", -1)) + 1, **last}


def _show_run(found: Mapping[str, Any]) -> None:
    state = "finished" if found["finished"] else "not finished"
    print(f"{state}, {counted(found['epochs'], 'epoch')} trained")
    for name, value in found.items():
        if isinstance(value, float):
            print(f"{name}: {value:.4f}")


def _show_service(state: Mapping[str, Any]) -> None:
    for line in _service_lines(state):
        print(line)
    groups = state["groups"]
    if groups:
        rows = [
            (
                group["host"],
                f"{group['workers']}",
                f"{group['computed']:,}",
                ", ".join(_lease(one) for one in group["leases"]) or "none",
                f"{group['idle_seconds']:.1f}",
            )
            for group in groups
        ]
        head = ("group", "workers", "computed", "leases", "seconds since its last call")
        show_rows(rows, head=head)


def _service_lines(state: Mapping[str, Any]) -> Iterator[str]:
    parts = counted(state["micro_batches"], "micro-batch", "micro-batches")
    yield (
        f"epoch {state['epoch']:,} of {state['epochs']:,}, step {state['step']:,} of "
        f"{state['steps_per_epoch']:,} in {parts}"
    )
    if state["loss"] is not None:
        speed = state["steps_per_second"]
        rate = "" if speed is None else f", {speed:.2f} steps per second"
        yield f"loss {state['loss']:.4f}{rate}"
    if state["best_epoch"] >= 0:
        best = ", ".join(
            f"{name} {value:.4f}" for name, value in state["best"].items() if "_loss" not in name
        )
        yield f"best epoch {state['best_epoch']}: {best}"
    counts = ", ".join(f"{count:,} by {n}" for n, count in state["staleness"].items())
    yield f"micro-batches by staleness in updates: {counts or 'none'}"
    yield (
        f"{counted(state['lost_leases'], 'lost lease')}, "
        f"{counted(state['repeated_results'], 'repeated result')}, "
        f"{counted(len(state['groups']), 'group')}"
    )
    if state["failure"]:
        yield f"failed: {state['failure']}"


def _lease(lease: Mapping[str, int]) -> str:
    if lease["step"] < 0:
        return f"evaluation of version {lease['version']}"
    return f"micro-batch {lease['micro_batch']} of step {lease['step']}"
