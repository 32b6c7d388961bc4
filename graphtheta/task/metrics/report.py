"""Report of the predictions of a split: confusion matrix and calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphtheta.task.metrics.scored import Scored

__all__ = ["report_of"]

_LARGEST = 1000  # classes of a confusion matrix


def report_of(scored: Scored, threshold: float | None) -> dict[str, Any]:
    """Return the number of rows, confusion matrix and calibration over all workers; collective.

    Args:
        scored: Outputs and labels of a split; not numbers.
        threshold: Probability from which yes is predicted, if one was chosen.

    Returns:
        `rows`; `confusion`, by true and predicted class, of two classes no and yes from probability
        0.5, and `confusion_at_threshold`; of a multi-label such a matrix for each label; no matrix
        of more than 1,000 classes. `calibration` has for each bin of probabilities its limits, the
        number of targets, their mean probability and the share that is positive. Of several classes
        the probability is that of the predicted one, and positive is a right prediction. It is null
        for an empty bin.
    """
    result: dict[str, Any] = {"rows": int(scored.sums(len(scored.targets))[0])}
    if scored.kind == "multilabel":
        counts = scored.counts
        if len(counts.hits) <= _LARGEST:
            false_positives, missed = counts.predicted - counts.hits, counts.labels - counts.hits
            right_no = counts.known - counts.labels - false_positives
            table = np.stack([right_no, false_positives, missed, counts.hits], axis=1)
            result["confusion"] = table.reshape(-1, 2, 2).tolist()
    elif scored.kind == "binary" or scored.outputs.shape[1] <= _LARGEST:
        result["confusion"] = scored.confusion().tolist()
        if threshold is not None:
            result["confusion_at_threshold"] = scored.confusion(threshold).tolist()
    numbers, probabilities, positives = scored.calibration
    limits = np.linspace(0, 1, len(numbers) + 1).tolist()
    result["calibration"] = [
        {
            "from": low,
            "to": high,
            "count": int(number),
            "mean_probability": probability / number if number else None,
            "positive_share": positive / number if number else None,
        }
        for low, high, number, probability, positive in zip(
            limits, limits[1:], numbers.tolist(), probabilities.tolist(), positives.tolist(),
            strict=False,
        )
    ]  # fmt: skip
    return result
