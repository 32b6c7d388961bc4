"""Damaged and forged files of a run: refused in one line, before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, make_store
from graphtheta.run.resolve import load_config, resolve
from graphtheta.run.run import start_run, trained_model
from graphtheta.shard.open import open_shard
from tests.damage import one_line
from tests.graphs import power_law, to_graph

ALONE = SingleCommunicator()
EPOCHS = 2
Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    store = make_store(to_graph(power_law(40, 150)), folder / "store", Plan(1))
    options = {"input": str(store.path), "run_dir": folder / "run", "hidden": 4, "epochs": EPOCHS}
    start_run(resolve(options), ALONE).fit(EPOCHS)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / f"epoch-{EPOCHS:06d}"


def resume(run: Path) -> None:
    start_run(resolve({"run_dir": run}, resume=True), ALONE, resume=True)


def predict(run: Path) -> None:
    trained_model(run, open_shard(run.with_name("store")))


def change_tensors(path: Path, change: Change) -> None:
    """Change the tensors of a file, which then has no hash, nor has its checkpoint."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def first(tensors: dict[str, Tensor]) -> str:
    return max(tensors, key=lambda name: (tensors[name].dim(), name))


def set_value(value: float) -> Change:
    return lambda t: t.update({first(t): torch.full_like(t[first(t)], value)})


WEIGHTS: dict[str, Change] = {
    "nan": set_value(float("nan")),
    "inf": set_value(float("inf")),
    "half": lambda t: t.update({n: v.half() for n, v in t.items()}),
    "double": lambda t: t.update({n: v.double() for n, v in t.items()}),
    "integers": lambda t: t.update({first(t): t[first(t)].long()}),
    "shape": lambda t: t.update({first(t): t[first(t)][:1].contiguous()}),
    "missing": lambda t: t.pop(first(t)),
    "more": lambda t: t.update(more=torch.zeros(1)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_other_weights_are_refused(name: str, run: Path, made: Path) -> None:
    shutil.copytree(made / "store", run.with_name("store"))
    change_tensors(run / "weights.safetensors", WEIGHTS[name])
    (run / "summary.json").unlink()  # which has the hash of the file
    with pytest.raises(ConfigError, match=r"weights\.safetensors.*: expected") as caught:
        predict(run)
    assert "\n" not in str(caught.value)


def test_changed_bytes_of_weights_are_refused(run: Path, made: Path) -> None:
    shutil.copytree(made / "store", run.with_name("store"))
    predict(run)
    path = run / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.safetensors: expected the weights of this"):
        predict(run)
    (run / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"weights\.safetensors: expected a file.*hash"):
        predict(run)


OPTIMIZER: dict[str, Change] = {
    **{name: WEIGHTS[name] for name in ("nan", "inf", "integers", "missing")},
    "shape": lambda t: t.update({first(t): t[first(t)].flatten()}),
    "other_parameter": lambda t: t.update({"99.step": torch.zeros(())}),
    "other_name": lambda t: t.update({"0.momentum_buffer": torch.zeros(1)}),
    "no_number": lambda t: t.update({"x.step": torch.zeros(())}),
}


def forged(run: Path) -> Path:
    """Return the checkpoint of a run after removing what shows that it was changed."""
    path = checkpoint(run)
    files = path / "files.json"
    if files.exists():
        from graphtheta.train import weights

        hashes = json.loads(files.read_text())
        files.write_text(json.dumps({name: weights.file_hash(path / name) for name in hashes}))
    return path


@pytest.mark.parametrize("name", OPTIMIZER)
def test_state_of_another_optimiser_is_refused(name: str, run: Path) -> None:
    path = checkpoint(run) / "optimizer.safetensors"
    change_tensors(path, OPTIMIZER[name])
    forged(run)
    with pytest.raises(ConfigError, match=r"optimizer\.safetensors.*: expected") as caught:
        resume(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "best"])
@pytest.mark.parametrize("change", ["nan", "shape", "half"])
def test_other_weights_of_a_checkpoint_are_refused(name: str, change: str, run: Path) -> None:
    path = checkpoint(run) / f"{name}.safetensors"
    assert path.exists()
    change_tensors(path, WEIGHTS[change])
    forged(run)
    with pytest.raises(ConfigError, match=rf"{name}\.safetensors.*: expected"):
        resume(run)


@pytest.mark.parametrize(
    "change",
    [{"epoch": 5}, {"epoch": "two"}, {"history": {"loss": 1}}, {"optimizer": []}, {"seed": None}],
    ids=str,
)
def test_other_progress_is_refused(change: dict[str, object], run: Path) -> None:
    path = checkpoint(run) / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    forged(run)
    with pytest.raises(ConfigError, match=r"progress\.json: expected") as caught:
        resume(run)
    assert "\n" not in str(caught.value)


LINES = ("{", "[]", "{}", '{"epoch": "x"}', '{"epoch": Infinity}', "1", "\ufffd", "[" * 100_000)


def test_damaged_lines_of_metrics_are_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_text()
    first, *others = whole.splitlines(keepends=True)
    damaged = "".join(f"{line}\n" for line in LINES)
    path.write_bytes(f"{first}{damaged}{''.join(others)}".encode() + b'\xff\x0c{"epoch": 9')
    resume(run)
    assert path.read_text() == whole
    named = [line for line in caplog.messages if "metrics.jsonl: expected an object" in line]
    assert len(named) == len(LINES)
    assert "in line 2, got other content" in named[0]
    assert "\n" not in "".join(named)


def test_changed_configuration_is_refused(run: Path) -> None:
    path = run / "config.toml"
    text = path.read_text().replace("lr = 0.01", "lr = 0.02")
    path.write_text(text)
    for start in (lambda: load_config(run), lambda: resume(run)):
        with pytest.raises(ConfigError, match=r"config\.toml: expected the content that the run"):
            start()
    *lines, _ = text.splitlines()
    path.write_text("\n".join(lines))
    assert load_config(run).lr == 0.02


@pytest.mark.parametrize("content", ["{", "a = 1", "[[" * 5000, "lr = 'x'", "epochs = -1"])
def test_other_configuration_is_refused(content: str, run: Path) -> None:
    (run / "config.toml").write_text(content)
    assert one_line(lambda: load_config(run)) is not None


@pytest.mark.parametrize(
    "label", ["", "[]", '{"task": "multiclass", "num_classes": 1000000000000}', '{"task": "x"}']
)
def test_other_label_is_refused(label: str, run: Path, made: Path) -> None:
    shutil.copytree(made / "store", run.with_name("store"))
    (run / "label.json").write_text(label)
    with pytest.raises(ConfigError, match=r"label\.json: expected"):
        predict(run)
