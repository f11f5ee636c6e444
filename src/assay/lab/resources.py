"""What a unit that trains a model takes, from the model's sizes: for `Study.resources`."""

from __future__ import annotations

from assay.lab.study import Resources

PROCESS = 0.4e9  # bytes of a worker that has imported torch and transformers
FLOATS = 50  # kept for the backward pass, for each token, layer and unit of width; attention 35, GLA 50, Mamba 85


def training_resources(*, tokens: int, width: int, layers: int, vocab_size: int = 0) -> Resources:
    """One core, one GPU where the device is one, and the memory of training a `Backbone` in float32: the process, four
    copies of the weights (AdamW's), and what the backward pass needs of `tokens` = batch x length. Measured peaks are
    0.7 to 1.7 times as large.

    >>> round(training_resources(tokens=64 * 256, width=128, layers=2, vocab_size=1024).memory / 1e9, 2)
    1.25
    """
    weights = width * (2 * vocab_size + 12 * width * layers)
    return Resources(memory=PROCESS + 16 * weights + 4 * FLOATS * tokens * width * layers)
