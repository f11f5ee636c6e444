"""Any causal network of vectors as a player."""

from __future__ import annotations

from torch import Tensor, nn

from assay._errors import InputError
from assay.online.decisions import Ball, Simplex


class NetworkPolicy(nn.Module):
    """`network` maps (B, L, d) to scores (B, L, d), causally; before the first loss it reads zeros. A policy is the
    softmax of the scores on the simplex, their projection on a ball.

        transformer = SmallTransformer(nn.Linear(2, 32), 2, d_model=32, num_layers=1, num_heads=1, max_len=101)
        policy = NetworkPolicy(transformer)      # reads at most 100 losses

    Called with a history (B, t, d) it is an agent, `policies(losses)` gives all rounds at once, as other players do.
    Whether the network is causal is not checked. Raises what the network raises for a history that is too
    long.
    """

    def __init__(self, network: nn.Module, decisions: Simplex | Ball | None = None) -> None:
        super().__init__()
        self.network, self.decisions = network, decisions or Simplex()

    def forward(self, history: Tensor) -> Tensor:
        """The policy (B, d) for the round after the losses (B, t, d), t >= 0. Raises `InputError` where the network's
        scores are not (B, t + 1, d)."""
        return self._all(history)[..., -1, :]

    def policies(self, losses: Tensor) -> Tensor:
        """Of all rounds, (B, T, d), each from the losses (B, T, d) before it. Raises `InputError` where the network's
        scores are not (B, T, d)."""
        return self._all(losses[..., :-1, :])

    def _all(self, losses: Tensor) -> Tensor:
        """Of the rounds up to the one after the last loss, (B, t + 1, d)."""
        weights = next(self.network.parameters())
        scores = self.network(nn.functional.pad(losses.to(weights), (0, 0, 1, 0)))
        if scores.shape != (*losses.shape[:-2], losses.shape[-2] + 1, losses.shape[-1]):
            raise InputError(
                f"network gave shape {tuple(scores.shape)} for losses {tuple(losses.shape)}; expected (B, L, d)"
            )
        scores = scores.to(losses)
        return scores.softmax(-1) if isinstance(self.decisions, Simplex) else self.decisions.project(scores)
