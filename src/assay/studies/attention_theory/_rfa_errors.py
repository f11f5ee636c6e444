"""What `random_feature_attention` runs: three models of as many parameters, fitted to one target."""

from __future__ import annotations

import torch

from assay.data.permutation_invariant import Kind, QueryKeyTarget, unit_vectors
from assay.lab import Row
from assay.nn.random_feature_attention import RandomFeatureAttention, RandomFeatureMLP


def errors(
    *, sweep: str, target: Kind, power: int, d: int, num_keys: int, prompts: int, heads: int, bias: float, seed: int,
    device: str,
) -> list[Row]:  # fmt: skip
    """The mean squared error over the variance of the target, on 2000 fresh prompts, of each model fitted to `prompts`.

    `sweep` says which part of the study a row belongs to.
    """
    generator = torch.Generator(device).manual_seed(seed)
    function = QueryKeyTarget(unit_vectors(d, generator=generator), target, power)
    fit = function.sample(prompts, num_keys=num_keys, generator=generator)
    test = function.sample(2000, num_keys=num_keys, generator=generator)
    models: dict[str, RandomFeatureAttention | RandomFeatureMLP] = {
        "attention": RandomFeatureAttention(d, heads, generator=generator),
        "biased attention": RandomFeatureAttention(d, heads, bias_scale=bias, generator=generator),
        "MLP": RandomFeatureMLP(d, num_keys, heads * (d + 1), generator=generator),
    }
    rows: list[Row] = []
    for name, model in models.items():
        left = model.fit(fit.query, fit.keys, fit.ys).predict(test.query, test.keys) - test.ys
        sizes = {"d": d, "num_keys": num_keys, "prompts": prompts, "heads": heads}
        rows.append({"sweep": sweep, "target": target, "model": name, "error": left.square().mean() / test.ys.var()}
                    | sizes)  # fmt: skip
    return rows
