"""Linear attention and H3 on prompts: by definition, as a step of descent, and trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay._errors import InputError
from assay.data.in_context import GaussianInputs, InContext, Prompts, stack_prompt
from assay.data.in_context_tasks import LinearTasks
from assay.icl.linear_layers import H3Layer, LinearAttention, PreconditionedStep, fit_pgd, query_mse
from assay.lab.training import train
from assay.studies.attention_theory._h3_risks import settings
from assay.studies.attention_theory._h3_training import Factors, trained_settings
from assay.theory.linear_risks import icl_linear_risk, icl_weighted_risk

D, N = 3, 6


def prompts(rho: float | None = None, many: int = 50, seed: int = 0) -> Prompts:
    sampler = InContext(LinearTasks(D, rho=rho), GaussianInputs(), noise=0.5, dtype=torch.float64)
    return sampler.sample(many, N + 1, generator=torch.Generator().manual_seed(seed))


def test_linear_attention_is_attention_without_softmax() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(D).double()
    Z = stack_prompt(*prompts()[:2])

    naive = torch.stack([((one @ layer.Wq) @ (one @ layer.Wk).mT @ (one @ layer.Wv))[-1] @ layer.h for one in Z])
    torch.testing.assert_close(layer(Z), naive)


def test_h3_is_a_causal_convolution_between_two_gates() -> None:
    torch.manual_seed(0)
    layer = H3Layer(D, N + 3).double()
    torch.nn.init.normal_(layer.phi)
    Z = stack_prompt(*prompts()[:2])

    gated = (Z @ layer.Wk) * (Z @ layer.Wv)
    convolved = torch.zeros_like(gated)
    for i in range(N + 1):
        for j in range(i + 1):
            convolved[:, i] += layer.phi[i - j] * gated[:, j]
    torch.testing.assert_close(layer(Z), ((Z @ layer.Wq) * convolved)[:, -1] @ layer.h)


@pytest.mark.parametrize("layer", [LinearAttention(D), H3Layer(D, N + 1)])
def test_to_pgd_is_what_is_odd_in_y_and_in_the_query(layer: LinearAttention | H3Layer) -> None:
    """f(x, X, y) is cubic; its part that is linear in y is (f(y) - f(-y)) / 2, less what does not see examples' x."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    xs, ys = prompts()[:2]

    def f(y: Tensor) -> Tensor:
        return layer(stack_prompt(xs, y))

    with torch.no_grad():
        torch.testing.assert_close(layer.to_pgd(N).predict(xs, ys), (f(ys) - f(-ys)) / 2)
        assert (layer.to_pgd(N).predict(xs, ys) - f(ys)).abs().max() > 0.1  # there is more in f


def test_block_weights_make_a_layer_a_step_of_descent() -> None:
    W = torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    xs, ys = prompts()[:2]
    attention = LinearAttention(D).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.Wq[:D, :D] = W  # queries read x, keys read x, values read y
        attention.Wk[:D, :D] = torch.eye(D)
        attention.Wv[D, D] = attention.h[D] = 1

        direct = torch.stack([x[-1] @ W @ x[:-1].mT @ y[:-1] for x, y in zip(xs, ys, strict=True)])
        torch.testing.assert_close(attention(stack_prompt(xs, ys)), direct)
    torch.testing.assert_close(attention.to_pgd(N).W, W)


def test_least_squares_finds_the_best_attention() -> None:
    W, risk = icl_linear_risk(torch.eye(D), torch.eye(D), N, 0.5)
    fitted = fit_pgd(prompts(many=100_000))
    fresh = prompts(many=100_000, seed=1)

    torch.testing.assert_close(fitted, W, atol=0.005, rtol=0)
    step = PreconditionedStep(fitted, torch.ones(N).double())
    assert (step.predict(*fresh[:2]) - fresh.ys[:, -1]).square().mean().item() == pytest.approx(risk, rel=0.02)


def test_trained_layers_reach_the_best_risks_and_attention_not_that_of_h3() -> None:
    n = 16
    at = torch.arange(n + 1).double()
    correlations = 0.8 ** (at[:, None] - at).abs()
    best = icl_weighted_risk(correlations[:-1, :-1], correlations[:-1, -1], D, 0.5)
    sampler = InContext(LinearTasks(D, rho=0.8), GaussianInputs(), noise=0.5)
    fresh = sampler.sample(50_000, n + 1, generator=torch.Generator().manual_seed(9))
    risks = []
    for make in (lambda: LinearAttention(D), lambda: H3Layer(D, n + 1)):
        torch.manual_seed(0)
        layer = make()
        train(layer, lambda g: sampler.sample(128, n + 1, generator=g), steps=500, seed=0, loss=query_mse, lr=1e-2,
              weight_decay=0.0)  # fmt: skip
        with torch.no_grad():
            risks.append(query_mse(layer, fresh).item())

    assert risks[0] == pytest.approx(best.equal, rel=0.03)
    assert risks[1] == pytest.approx(best.weighted, rel=0.03)
    assert best.weighted < 0.88 * best.equal


def test_factors_are_a_step_of_descent_from_frozen_weights() -> None:
    torch.manual_seed(0)
    layer, (xs, ys) = Factors(torch.eye(D), 2), prompts()[:2]
    step = PreconditionedStep((layer.W + layer.U @ layer.V).detach(), torch.ones(N))

    with torch.no_grad():
        torch.testing.assert_close(layer(stack_prompt(xs, ys).float()), step.predict(xs.float(), ys.float()))
    assert [name for name, _ in layer.named_parameters()] == ["U", "V"]


@pytest.mark.parametrize("setting", ["retrieval", "alignment", "low rank", "LoRA"])
def test_settings_are_trained_and_compared_with_their_own_formula(setting: str) -> None:
    torch.manual_seed(0)
    row = trained_settings(setting=setting, d=2, n=6, noise=0.5, steps=20, batch=64, lr=0.02, seed=100, device="cpu")

    assert 0.95 * row["formula"] < row["risk"] < 4


def test_two_inputs_have_a_rank_to_restrict() -> None:
    of = {one.name: one for one in settings(2, 6, 0.5)}

    assert of["low rank"].wrong < of["low rank"].formula < 1.375 + 0.25  # that of full rank; that of rank 0
    assert of["LoRA"].formula < of["LoRA"].wrong  # without adaptation


def test_a_mistake_is_named() -> None:
    with pytest.raises(InputError, match="prompt has 7 rows; expected at most 6, the length of the filter"):
        H3Layer(D, N)(stack_prompt(*prompts()[:2]).float())
    with pytest.raises(InputError, match=r"prompt has shape \(50, 7, 3\); expected \(B, n \+ 1, 4\)"):
        LinearAttention(D)(prompts().xs)
    with pytest.raises(InputError, match="length is 1"):
        H3Layer(D, 1)
    with pytest.raises(InputError, match="d is 0"):
        LinearAttention(0)
    with pytest.raises(InputError, match="xs has 7 points; expected 6"):
        LinearAttention(D).to_pgd(N - 1).predict(*prompts()[:2])
