"""A mixture of experts in the place of an MLP: a router sends each token to a few of many small MLPs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay._errors import InputError
from assay.nn._head_size import check_sizes

BALANCES = ("loss", "bias", "none")


class Routing(NamedTuple):
    """For N tokens and E experts: `experts` (N, k), int64; `gates` (N, k); `scores` (N, E), which sum to 1."""

    experts: Tensor
    gates: Tensor
    scores: Tensor


class Expert(nn.Module):
    """`W_3 (silu(W_1 x) o W_2 x)`: (..., d_model) -> the same."""

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_hidden, bias=False)
        self.up = nn.Linear(d_model, d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class MoEFeedForward(nn.Module):
    """`y = sum_shared F_i(x) + sum_{i in top k} g_i F_i(x)`, with `s = softmax(W_g x)` and `g_i = s_i / sum of the k`.

    `forward`: (B, L, d_model) -> y of the same shape, and the balance loss, a scalar to be added to the model's; the
    residual is the caller's. Every token is kept: there is no capacity. The router computes in float32.

    Balance, so that no expert starves (f_i: share of the k N choices that fall on expert i, P_i: mean score):

    - "loss": `balance_weight E sum_i f_i P_i`, which is `balance_weight` where all is even (Fedus et al. 2021, arXiv
      2101.03961, eq. 4, here for k choices).
    - "bias": b_i is added to the scores where the k are chosen, and nowhere else; at each step in training it moves
      by `balance_weight` towards an even load (Wang et al. 2024, arXiv 2408.15664). The loss is 0.
    - "none": nothing; the loss is 0.

    Shared experts see every token (Dai et al. 2024, arXiv 2401.06066). The formulas are those of DeepSeek's models,
    which Mehta et al. 2025 (arXiv 2509.24406) train by Muon; stated from memory. Linear layers have no bias and are
    initialised as `nn.Linear`.

    Args:
        d_hidden: width of each expert.
        num_experts, top_k: E and k. num_shared: experts besides these that all tokens go to.
        balance_weight: None for 0.01 with "loss" and 0.001 with "bias".

    Raises `InputError` for sizes below 1, more choices than experts, and an unknown balance.
    O(N (k + shared) d_model d_hidden).
    """

    bias: Tensor

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        num_shared: int = 1,
        balance: str = "loss",
        balance_weight: float | None = None,
    ) -> None:
        super().__init__()
        check_sizes(d_model=d_model, d_hidden=d_hidden, num_experts=num_experts, top_k=top_k)
        if top_k > num_experts or num_shared < 0:
            raise InputError(
                f"top_k is {top_k} and num_shared {num_shared}; expected at most num_experts = {num_experts}, and >= 0"
            )
        if balance not in BALANCES:
            raise InputError(f"balance is {balance!r}; expected one of {', '.join(map(repr, BALANCES))}")
        self.top_k, self.balance = top_k, balance
        self.balance_weight = {"loss": 0.01, "bias": 0.001, "none": 0.0}[balance]
        if balance_weight is not None:
            self.balance_weight = balance_weight
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.register_buffer("bias", torch.zeros(num_experts))
        self.experts = nn.ModuleList(Expert(d_model, d_hidden) for _ in range(num_experts))
        self.shared = nn.ModuleList(Expert(d_model, d_hidden) for _ in range(num_shared))

    def route(self, x: Tensor) -> Routing:
        """Where the tokens (N, d_model) go."""
        with torch.autocast(x.device.type, enabled=False):
            scores = nn.functional.linear(x.float(), self.router.weight.float()).softmax(-1)
        experts = (scores + self.bias).topk(self.top_k, dim=-1).indices
        gates = scores.gather(-1, experts)
        return Routing(experts, gates / gates.sum(-1, keepdim=True), scores)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.flatten(0, -2)
        experts, gates, scores = self.route(tokens)
        y = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            token, choice = torch.nonzero(experts == number, as_tuple=True)
            y = y.index_add(0, token, (expert(tokens[token]) * gates[token, choice, None]).to(y.dtype))
        for expert in self.shared:
            y = y + expert(tokens)
        return y.view_as(x), self._balance(experts, scores)

    def _balance(self, experts: Tensor, scores: Tensor) -> Tensor:
        load = expert_load(experts, len(self.experts)).to(scores.dtype)
        if self.balance == "bias" and self.training:
            self.bias += self.balance_weight * (load.mean() - load).sign()
        if self.balance != "loss":
            return scores.new_zeros(())
        return self.balance_weight * len(self.experts) * (load @ scores.mean(0))


def expert_load(experts: Tensor, num_experts: int) -> Tensor:
    """Share of all choices (N, k) that falls on each expert: (E,), float64."""
    return torch.bincount(experts.flatten(), minlength=num_experts).double() / experts.numel()


def load_entropy(load: Tensor) -> Tensor:
    """`-sum_i f_i ln f_i / ln E` of shares (..., E): 1 where all experts are used alike, 0 where one is used."""
    return torch.special.entr(load).sum(-1) / torch.tensor(float(load.shape[-1]), dtype=load.dtype).log()
