"""Attention with frozen random query-key matrices: a linear model on random features of a query and its keys.

Not to be confused with random features *of the softmax* (Peng et al. 2021, also called random feature attention), which
make attention linear in the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.data._checks import check_counts, check_generator, check_number
from assay.optim.ridge import RIDGES, ridge_regression

CHUNK = 1024  # prompts at a time: what is between inputs and features is as large as these


class RandomFeatureAttention(nn.Module):
    """`f(x_0, x_1..x_N) = sum_m mean_i relu(<x~_0, W_m x~_i>) <v_m, x~_i>`, `x~ = (x, 1)`, over M heads.

    The matrices W_m, (d + 1, d + 1), are Gaussian and frozen; the values v_m are fitted by ridge regression. So it is
    as cheap as a linear model, and blind to the order of the keys.

        RandomFeatureAttention(8, 100, generator=generator).fit(query, keys, y).predict(query, keys)

    Args:
        d: size of the vectors.
        num_heads: M; there are M (d + 1) values to fit.
        bias_scale: c of *biased* heads, whose W_m have c <x_0, x_i> in their mean: they attend to keys that are like
            the query. 0: no bias.
        weight_std: of the entries of W_m. It matters beside a bias only.
        generator: draws the heads, on its device.

    Everything is in float64: features of many heads are nearly dependent. Source: Fu, Guo, Bai & Mei 2023 (arXiv
    2307.11353), definitions of RFA and BRFA; the standard deviation 1/2 from memory.
    """

    def __init__(
        self,
        d: int,
        num_heads: int,
        *,
        bias_scale: float = 0.0,
        weight_std: float = 0.5,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_counts(d=d, num_heads=num_heads)
        check_number("bias_scale", bias_scale)
        check_generator(generator)
        weight = weight_std * _normal(num_heads, d + 1, d + 1, generator=generator)
        weight[:, range(d), range(d)] += bias_scale
        self.weight: Tensor
        self.readout: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("readout", weight.new_full((num_heads * (d + 1),), torch.nan))  # until it is fitted

    def features(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, M (d + 1)), float64: for each head the mean over keys of the relu of the score times (x_i, 1).

        query: (B, d); keys: (B, N, d), of any number N at least 1. O(B M d (N + d)).
        """
        d = self.weight.shape[-1] - 1
        _check_prompts(query, keys, d)
        chunks = zip(_with_one(query).split(CHUNK), _with_one(keys).split(CHUNK), strict=True)
        return torch.cat([self._features(q, k) for q, k in chunks])

    def _features(self, query: Tensor, keys: Tensor) -> Tensor:
        scores = torch.einsum("bd,mde->bme", query, self.weight) @ keys.mT  # (B, M, N)
        return (scores.relu() @ keys / keys.shape[1]).flatten(1)

    def fit(self, query: Tensor, keys: Tensor, y: Tensor, ridge: Sequence[float] = RIDGES) -> Self:
        """Fit the values to y, (B,), by `assay.optim.ridge.ridge_regression`."""
        self.readout = ridge_regression(self.features(query, keys), y, ridge).weights
        return self

    def predict(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B,), float64. Raises `InputError` before `fit`."""
        return _read_out(self.features(query, keys), self.readout)


class RandomFeatureMLP(nn.Module):
    """`f(x_0, x_1..x_N) = sum_m v_m relu(<w_m, (x_0, x_1, .., x_N, 1)>)`: the same without attention, which knows the
    order of the keys and has to learn that it does not matter.

    Args:
        d, num_keys: size of the vectors, and N.
        width: number of features; for as many parameters as attention with M heads, M (d + 1).
        generator: draws the w_m, N(0, I), on its device.

    Source: Fu, Guo, Bai & Mei 2023 (arXiv 2307.11353), the baseline RFMLP.
    """

    def __init__(self, d: int, num_keys: int, width: int, *, generator: torch.Generator) -> None:
        super().__init__()
        check_counts(d=d, num_keys=num_keys, width=width)
        check_generator(generator)
        weight = _normal(width, d * (num_keys + 1) + 1, generator=generator)
        self.d, self.num_keys = d, num_keys
        self.weight: Tensor
        self.readout: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("readout", weight.new_full((width,), torch.nan))

    def features(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, width), float64. query: (B, d); keys: (B, N, d). O(B width N d)."""
        _check_prompts(query, keys, self.d, self.num_keys)
        return (_with_one(torch.cat([query[:, None], keys], dim=1).flatten(1)) @ self.weight.mT).relu()

    def fit(self, query: Tensor, keys: Tensor, y: Tensor, ridge: Sequence[float] = RIDGES) -> Self:
        """Fit the output weights to y, (B,), by `assay.optim.ridge.ridge_regression`."""
        self.readout = ridge_regression(self.features(query, keys), y, ridge).weights
        return self

    def predict(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B,), float64. Raises `InputError` before `fit`."""
        return _read_out(self.features(query, keys), self.readout)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def _with_one(x: Tensor) -> Tensor:
    x = x.double()
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)


def _check_prompts(query: Tensor, keys: Tensor, d: int, num_keys: int | None = None) -> None:
    right = query.ndim == 2 and keys.ndim == 3 and query.shape[1] == keys.shape[2] == d and len(query) == len(keys)
    if not right or not keys.shape[1] or num_keys not in (None, keys.shape[1]):
        raise InputError(
            f"query has shape {tuple(query.shape)} and keys {tuple(keys.shape)}; "
            f"expected (B, {d}) and (B, {'N' if num_keys is None else num_keys}, {d})"
        )


def _read_out(features: Tensor, readout: Tensor) -> Tensor:
    if readout.isnan().any():
        raise InputError("predict was called before fit; expected a fitted model")
    return features @ readout
