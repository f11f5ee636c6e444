from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay import InputError
from assay.data.in_context import GaussianInputs, InContext, Prompts
from assay.data.in_context_tasks import LinearTasks
from assay.icl.induced_weights import induced_weights, similarity_of_induced_weights
from assay.icl.learners import OLS, GradientDescent, OnlineGD, Ridge
from assay.icl.regressor import InContextRegressor


def prompts(num: int = 5) -> Prompts:
    return InContext(LinearTasks(3), GaussianInputs()).sample(num, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("learner", [OLS(), Ridge(0.5), GradientDescent(3), OnlineGD()])
def test_the_weights_of_a_linear_learner_are_found(learner: OLS) -> None:
    p = prompts()
    found = induced_weights(learner, p.xs, p.ys, num_probes=6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, learner.weights(p.xs, p.ys), rtol=1e-6, atol=1e-7)


def test_they_know_nothing_of_the_answer_and_of_what_follows() -> None:
    p = prompts()

    def cheats(xs: Tensor, ys: Tensor) -> Tensor:
        return ys * xs[..., 0]  # what stands at the place of the answer would show

    found = induced_weights(cheats, p.xs, p.ys, num_probes=6, generator=torch.Generator().manual_seed(2))
    assert found.abs().max() == 0
    later = p.ys.clone()
    later[:, 4:] = 100
    a, b = (
        induced_weights(OLS(), p.xs, ys, num_probes=6, generator=torch.Generator().manual_seed(2))
        for ys in (p.ys, later)
    )
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert not torch.allclose(a[:, 5:], b[:, 5:])


def test_a_transformer_has_the_weights_of_least_squares_over_its_answers() -> None:
    torch.manual_seed(0)
    model = InContextRegressor(3, 7, d_model=16, num_layers=2, num_heads=2)
    p = prompts(2)
    found = induced_weights(model, p.xs, p.ys, num_probes=40, generator=torch.Generator().manual_seed(3))
    queries = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    answers = []
    for query in queries:  # one prompt, one query at a time
        xs = p.xs[1:2, :5].clone()
        xs[0, 4] = query
        answers.append(model(xs, p.ys[1:2, :5]).detach()[0, 4])
    expected = torch.linalg.lstsq(queries, torch.stack(answers)[:, None]).solution[:, 0]
    torch.testing.assert_close(found[1, 4].float(), expected, rtol=1e-4, atol=1e-5)


def test_similarity_is_the_mean_cosine() -> None:
    a, b = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    assert similarity_of_induced_weights(a, b) == pytest.approx(cosine.mean().item())
    assert similarity_of_induced_weights(a, 3 * a) == pytest.approx(1)
    a[:, 0] = 0  # before the first example
    assert similarity_of_induced_weights(a, b) == pytest.approx(cosine[:, 1:].mean().item())


def test_bad_input() -> None:
    p = prompts()
    with pytest.raises(InputError, match="num_probes is 2"):
        induced_weights(OLS(), p.xs, p.ys, num_probes=2, generator=torch.Generator())
    with pytest.raises(InputError, match="weights_a has shape"):
        similarity_of_induced_weights(torch.ones(2, 3), torch.ones(2, 3))


def test_shapes_that_do_not_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match=r"xs has shape \(2, 3\) and ys \(2, 3\); expected"):
        induced_weights(OLS().predict_prefixes, torch.zeros(2, 3), torch.zeros(2, 3), num_probes=4, generator=generator)
