"""A transformer that reads examples and predicts the next value: the in-context learner of the experiments."""

from __future__ import annotations

from torch import Tensor, nn

from assay._errors import InputError
from assay.data.in_context import Prompts, interleave
from assay.models.small_transformer import SmallTransformer


class InContextRegressor(nn.Module):
    """`SmallTransformer` on `x_1, y_1, x_2, y_2, ...`, read out at the x.

        model = InContextRegressor(5, 11, d_model=64, num_layers=3, num_heads=2)
        train(model, lambda g: tasks.sample(64, 11, generator=g), steps=5000, seed=0, loss=prefix_mse)
        model.predict_prefixes(xs, ys)  # (B, N, d), (B, N) -> (B, N)

    Published sizes (layers / heads / width): 12 / 8 / 256, 6 / 4 / 128 and 3 / 2 / 64. Source: Garg et al. 2022 (arXiv
    2208.01066), whose layout this is; Li et al. 2023 (arXiv 2301.07067). Layers are those of `Backbone`, not of GPT-2.
    """

    def __init__(self, d: int, max_points: int, *, d_model: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.max_points = max_points
        sizes = {"d_model": d_model, "num_layers": num_layers, "num_heads": num_heads}
        self.transformer = SmallTransformer(nn.Linear(d, d_model), 1, max_len=2 * max_points, **sizes)

    def forward(self, xs: Tensor, ys: Tensor) -> Tensor:
        """(B, N): y at each position, from the examples before it. Raises `InputError` for more than `max_points`."""
        return self.transformer(self._tokens(xs, ys))[:, ::2, 0]

    predict_prefixes = forward

    def hidden_states(self, xs: Tensor, ys: Tensor) -> list[Tensor]:
        """What each layer hands on at the x: (B, N, d_model) each."""
        return [state[:, ::2] for state in self.transformer.hidden_states(self._tokens(xs, ys))]

    def _tokens(self, xs: Tensor, ys: Tensor) -> Tensor:
        if xs.ndim != 3 or ys.shape != xs.shape[:2] or xs.shape[1] > self.max_points:
            raise InputError(
                f"xs has shape {tuple(xs.shape)} and ys {tuple(ys.shape)}; expected (B, N, d) and (B, N), N at most "
                f"the {self.max_points} points of training"
            )
        return interleave(xs, ys)


def prefix_mse(model: nn.Module, prompts: Prompts) -> Tensor:
    """Mean squared error of all predictions `model(xs, ys)`: a `loss` for `assay.lab.training.train`."""
    return (model(prompts.xs, prompts.ys) - prompts.ys).square().mean()
