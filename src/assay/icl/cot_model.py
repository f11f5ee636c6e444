"""A transformer on prompts that show intermediate activations, and that may have to predict them, too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.data.in_context import Prompts
from assay.models.small_transformer import SmallTransformer


class CoTPromptModel(nn.Module):
    """`SmallTransformer` on examples x, s^1 .. s^m, y; it predicts y, after its own s^1 .. s^m or at once.

    | in_steps | out_steps | prompts | what is predicted |
    |---|---|---|---|
    | 0 | 0 | ICL: x, y | y at x |
    | m | 0 | CoT-I: x, s^1 .. s^m, y | y at x |
    | m | m | CoT-I/O: x, s^1 .. s^m, y | s^1 at x, s^2 at s^1, ..., y at s^m |

    x, s and y are read by linear maps of their own, with a bias each: one map for all s, or with `shared_embed=False`
    one for each s. Published sizes (layers / heads / width): 12 / 8 / 256, 6 / 4 / 128, 3 / 2 / 64, with
    101 points. Source: the code of Li et al. 2023 (arXiv 2305.18869), whose layers are those of GPT-2.

    Args:
        d: of x. hidden: k, of every s. max_points: examples in the longest prompt, the query included.

    Raises `InputError` for steps other than in the table.
    """

    def __init__(
        self,
        d: int,
        hidden: int,
        in_steps: int,
        out_steps: int,
        max_points: int,
        *,
        d_model: int,
        num_layers: int,
        num_heads: int,
        shared_embed: bool = True,
    ) -> None:
        super().__init__()
        if in_steps < 0 or out_steps not in (0, in_steps):
            raise InputError(f"out_steps is {out_steps} with in_steps {in_steps}; expected 0 or as many")
        self.d, self.k, self.in_steps, self.out_steps, self.max_points = d, hidden, in_steps, out_steps, max_points
        self.shared_embed = shared_embed
        maps = min(in_steps, 1) if shared_embed else in_steps  # of activations
        self.width = (d + 1) + (1 + 1) + maps * (hidden + 1)  # of x, y and s: coordinates, and a one for the bias
        self.transformer = SmallTransformer(
            nn.Linear(self.width, d_model, bias=False),
            hidden + 1,
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            max_len=(in_steps + 2) * max_points,
        )

    def forward(self, xs: Tensor, hidden: Sequence[Tensor], ys: Tensor) -> Tensor:
        """Losses of the steps, (out_steps + 1,), the last that of y; train on their sum. True tokens are before each.

        Squared errors, the sum over the k coordinates of an activation, the mean over prompts and positions.
        xs: (B, N, d); hidden: at least in_steps of (B, N, k); ys: (B, N).
        Raises `InputError` for more examples than `max_points`, and for shapes that disagree.
        """
        states = list(hidden[: self.in_steps])
        out = self._outputs(xs, states, ys)
        errors = [(out[:, :, j, :-1] - states[j]).square().sum(-1).mean() for j in range(self.out_steps)]
        return torch.stack([*errors, (out[:, :, self.out_steps, -1] - ys).square().mean()])

    def rollout(self, xs: Tensor, hidden: Sequence[Tensor], ys: Tensor) -> Tensor:
        """(B, N): y at each position from the examples before it, which are true, and the model's own steps at it.

        Neither hidden[:, i] nor ys[:, i] changes the prediction at i. One pass, in which nothing sees what comes later,
        gives the first step at all positions; each further step takes N passes of lengths 1..N.
        """
        given = list(hidden[: self.in_steps])
        first = self._outputs(xs, given, ys)[:, :, 0]
        if self.out_steps == 0:
            return first[..., -1]
        return torch.stack(
            [
                self._last(xs[:, :i], [state[:, :i] for state in given], ys[:, :i], first[:, i - 1, :-1])
                for i in range(1, xs.shape[1] + 1)
            ],
            dim=1,
        )

    def _last(self, xs: Tensor, states: list[Tensor], ys: Tensor, own: Tensor) -> Tensor:
        """(B,): y of the last example by roll-out from the model's own s^1, (B, k)."""
        for j in range(self.out_steps):  # what is behind it is not seen
            states[j] = torch.cat([states[j][:, :-1], own[:, None]], dim=1)
            out = self._outputs(xs, states, ys)[:, -1, j + 1]
            own = out[:, :-1]
        return out[:, -1]

    def _outputs(self, xs: Tensor, states: list[Tensor], ys: Tensor) -> Tensor:
        """What is predicted at each token, (B, N, in_steps + 2, k + 1)."""
        return self.transformer(self._tokens(xs, states, ys)).unflatten(1, (-1, self.in_steps + 2))

    def _tokens(self, xs: Tensor, states: list[Tensor], ys: Tensor) -> Tensor:
        """x, y and s, each with a one, in coordinates of their own: (B, (in_steps + 2) N, width)."""
        fits = xs.ndim == 3 and xs.shape[-1] == self.d and ys.shape == xs.shape[:2] and xs.shape[1] <= self.max_points
        if not fits:
            raise InputError(
                f"xs has shape {tuple(xs.shape)} and ys {tuple(ys.shape)}; expected (B, N, {self.d}) and (B, N), N at "
                f"most the {self.max_points} points of training"
            )
        if len(states) < self.in_steps or any(state.shape != (*ys.shape, self.k) for state in states):
            raise InputError(
                f"hidden has shapes {[tuple(state.shape) for state in states]}; expected {self.in_steps} times "
                f"{(*ys.shape, self.k)}"
            )
        tokens = xs.new_zeros(*ys.shape, self.in_steps + 2, self.width)
        one = torch.ones_like(ys[..., None])
        tokens[:, :, 0, : self.d + 1] = torch.cat([xs, one], dim=-1)
        tokens[:, :, -1, self.d + 1 : self.d + 3] = torch.cat([ys[..., None], one], dim=-1)
        for j, state in enumerate(states):
            start = self.d + 3 + (0 if self.shared_embed else j * (self.k + 1))
            tokens[:, :, j + 1, start : start + self.k + 1] = torch.cat([state, one], dim=-1)
        return tokens.flatten(1, 2)


def cot_loss(model: nn.Module, prompts: Prompts) -> Tensor:
    """The sum of the losses of the steps: a `loss` for `assay.lab.training.train`."""
    losses: Tensor = model(prompts.xs, prompts.hidden, prompts.ys)
    return losses.sum()
