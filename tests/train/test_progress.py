from __future__ import annotations

from typing import Literal

import pytest

from graphtheta.train.callbacks.progress import ProgressBar


@pytest.mark.parametrize(("shown", "lines"), [("lines", 3), (True, 0), (False, 0)])
def test_lines_of_progress(
    shown: bool | Literal["lines"], lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = ProgressBar(shown)
    bar.start(5, 2)
    for loss in (3.0, 2.0, 1.0):
        bar.advance({"epoch": 0, "loss": loss, "seconds": 0.1, "val_accuracy": 0.5}, "val_accuracy")
    bar.close()
    printed = capsys.readouterr().err.split("\n")[:-1]
    assert len(printed) == lines  # without a terminal, otherwise one line in ten seconds
    if lines:
        assert printed[0] == "3 of 5 epochs  loss 3.0000  val_accuracy 0.5000"
