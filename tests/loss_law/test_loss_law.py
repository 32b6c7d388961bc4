"""The multi-power law: fitted to curves, it predicts others, and finds a better schedule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from graphtheta.cli import main
from graphtheta.errors import ConfigError
from graphtheta.loss_law import (
    FitError,
    LawFile,
    LossCurve,
    MultiPowerLaw,
    best_schedule,
    fit_law,
    read_curve,
)
from graphtheta.loss_law.optimise import _final_loss
from graphtheta.optim import read_rates

LAW = MultiPowerLaw(0.4, 0.05, 0.5, 2.0, 30.0, 0.6, 0.5)
EPOCHS, PEAK = 60, 0.03


def schedules() -> dict[str, NDArray[np.float64]]:
    at = np.arange(EPOCHS)
    shapes = {
        "constant": np.ones(EPOCHS),
        "cosine": 0.55 + 0.45 * np.cos(np.pi * at / (EPOCHS - 1)),
        "step": np.where(at < EPOCHS // 2, 1, 0.3),
        "wsd": np.minimum(1, 0.1 + 0.9 * (EPOCHS - 1 - at) / (EPOCHS / 5)),
    }
    warmup = np.minimum(1, (at + 1) / 3)
    return {name: PEAK * warmup * shape for name, shape in shapes.items()}


def curves() -> dict[str, LossCurve]:
    noise = np.random.default_rng(0).normal(0, 2e-4, (4, EPOCHS))
    return {
        name: LossCurve(name, lr, LAW.predict(lr) * (1 + noise[i]))
        for i, (name, lr) in enumerate(schedules().items())
    }


def test_the_formula():
    lr = schedules()["cosine"]
    first = int(lr.argmax()) + 1
    t = 40
    reduction = sum(
        (lr[k - 1] - lr[k])
        * (1 - (LAW.c * lr[k] ** -LAW.gamma * lr[k : t + 1].sum() + 1) ** -LAW.beta)
        for k in range(first, t + 1)
    )
    expected = LAW.l0 + LAW.a * lr[: t + 1].sum() ** -LAW.alpha - LAW.b * reduction
    assert LAW.predict(lr)[t] == pytest.approx(expected, rel=1e-12)
    assert LAW.predict(lr, np.array([t]))[0] == pytest.approx(expected, rel=1e-12)


def test_a_fitted_law_predicts_an_unseen_schedule():
    seen = curves()
    law = fit_law([seen["constant"], seen["cosine"], seen["step"]])
    error = FitError.of(law, seen["wsd"])
    assert error.mean < 1e-3
    assert error.predicted == pytest.approx(error.measured, rel=1e-3)


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_slope_of_the_final_loss(warmup: int):
    lr = np.concatenate([[0.01, 0.02][:warmup], np.linspace(0.03, 0.003, 12)])
    loss, slope = _final_loss(LAW, lr, warmup)
    assert loss == pytest.approx(LAW.predict(lr)[-1], rel=1e-12)
    for i, step in enumerate(1e-6 * np.eye(len(lr))):
        higher, lower = (
            _final_loss(LAW, lr + step, warmup)[0],
            _final_loss(LAW, lr - step, warmup)[0],
        )
        assert slope[i] == pytest.approx((higher - lower) / 2e-6, rel=1e-4, abs=1e-6)


def test_the_best_schedule_is_better_than_the_usual_ones():
    found = best_schedule(LAW, EPOCHS, PEAK, warmup=2)
    assert len(found) == EPOCHS
    assert found[2] == PEAK
    assert found.min() > 0
    assert (np.diff(found[2:]) <= 0).all()
    losses = {name: LAW.predict(lr)[-1] for name, lr in schedules().items()}
    assert LAW.predict(found)[-1] < min(losses.values())


def test_the_best_schedule_that_is_nearly_all_warmup():
    assert best_schedule(LAW, 4, 0.4, warmup=3) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert len(best_schedule(LAW, 4, 0.4, warmup=2)) == 4


def write_run(path: Path, curve: LossCurve) -> None:
    path.mkdir()
    lines = [
        json.dumps({"epoch": i, "lr": float(lr), "loss": float(loss)})
        for i, (lr, loss) in enumerate(zip(curve.lr, curve.loss, strict=True))
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_the_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    for name, curve in curves().items():
        write_run(tmp_path / name, curve)
    law, found = tmp_path / "law.json", tmp_path / "found.json"
    runs = [str(tmp_path / name) for name in ("constant", "cosine", "step")]
    fit = ["schedule", "fit", *runs, "--holdout", str(tmp_path / "wsd"), "--output", str(law)]
    assert main(fit) == 0
    assert "not fitted" in capfd.readouterr().out
    optimise = ["schedule", "optimise", str(law), "--epochs", "50", "--output", str(found)]
    assert main(optimise) == 0
    schedule = read_rates(found)
    assert schedule.by == "epoch"
    assert len(schedule.lr) == 50
    assert max(schedule.lr) == pytest.approx(LawFile.read(law).peak)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Train the run first"),
        ('{"epoch": 0, "loss": 1}\n', "no 'lr'"),
        ('{"epoch": 1, "lr": 0.1, "loss": 1}\n', "expected epoch 0"),
        ('{"epoch": 0, "lr": 0.1, "val_loss": 1}\n', "Choose one of: val_loss"),
        ("[]\n", "other content"),
        ("{\n", "other content"),
    ],
)
def test_damaged_metrics(tmp_path: Path, text: str, message: str):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_curve(tmp_path)


def test_what_cannot_be_fitted(tmp_path: Path):
    constant = curves()["constant"]
    with pytest.raises(ConfigError, match="whose learning rate decays"):
        fit_law([constant])
    with pytest.raises(ConfigError, match="expected losses above 0"):
        fit_law([LossCurve("run", constant.lr, constant.loss - 1)])
    short = LossCurve("run", constant.lr[:5], constant.loss[:5])
    with pytest.raises(ConfigError, match="expected at least 14 epochs"):
        fit_law([short])
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: expected the metrics of a run"):
        read_curve(tmp_path)
    with pytest.raises(ConfigError, match="expected loss or one such as val_loss, got 'val_f1'"):
        read_curve(tmp_path, "val_f1")


@pytest.mark.parametrize("content", ["", "{}", '{"law": {"l0": NaN}}', "[1]"])
def test_damaged_law(tmp_path: Path, content: str):
    path = tmp_path / "law.json"
    with pytest.raises(ConfigError, match="expected a law"):
        LawFile.read(path)
    path.write_text(content)
    with pytest.raises(ConfigError, match="expected a law"):
        LawFile.read(path)
