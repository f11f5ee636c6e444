"""The automaton says what attention says once it is trained, and what it does where the data are silent."""

from __future__ import annotations

import pytest
import torch

from assay._errors import InputError
from assay.theory.attention_automaton import attention_automaton
from assay.theory.last_token_attention import attention_law, normalised_descent
from assay.theory.prompts import count_prompts

EYE = torch.eye(5, dtype=torch.float64)


def test_it_is_the_limit_of_training_and_labels_decide() -> None:
    g = torch.Generator().manual_seed(3)
    e = torch.nn.functional.normalize(torch.randn(2, 5, 7, dtype=torch.float64, generator=g), dim=-1)
    x = torch.randint(5, (2, 8, 4), generator=g)
    labels, other = (x.gather(2, torch.randint(4, (2, 8, 1), generator=g)).squeeze(2) for _ in range(2))
    w = normalised_descent(e, x, labels, steps=2000, lr=0.02)

    for s in range(2):
        law = attention_law(w[s], e[s], x[s])
        distances = []
        for y in (labels, other):
            automaton = attention_automaton(count_prompts(x[s], y[s], 5), e[s])
            distances.append(float((law - torch.stack([automaton.read(row).p for row in x[s]])).abs().max()))
        assert distances[0] <= 0.02
        assert distances[1] > 0.3


def test_attention_with_large_weights_is_the_automaton_on_any_context() -> None:
    g = torch.Generator().manual_seed(4)
    e = torch.randn(5, 6, dtype=torch.float64, generator=g)
    x = torch.randint(5, (12, 4), generator=g)
    data = count_prompts(x, x.gather(1, torch.randint(4, (12, 1), generator=g)).squeeze(1), 5)
    automaton = attention_automaton(data, e)
    fresh = torch.randint(5, (60, 6), generator=g)

    law = attention_law(1e4 * automaton.w_svm + automaton.w_fin, e, fresh)

    readings = [automaton.read(row) for row in fresh]
    assert torch.allclose(law, torch.stack([one.p for one in readings]), atol=1e-6)
    assert any(len(one.retrieved) > 1 for one in readings)  # something is mixed
    assert any(one.rivals for one in readings)
    assert any(not one.rivals for one in readings)


def test_soft_composition_has_the_frequencies_of_the_labels() -> None:
    contexts = [[0, 1, 2]] * 4
    automaton = attention_automaton(count_prompts(contexts, [0, 0, 0, 1], 5), EYE)

    once, twice = automaton.read([0, 1, 2]), automaton.read([0, 1, 1, 2])

    assert once.retrieved == [0, 1]
    assert torch.allclose(once.p, torch.tensor([0.75, 0.25, 0, 0, 0], dtype=torch.float64))
    assert torch.allclose(twice.p, torch.tensor([0.6, 0.4, 0, 0, 0], dtype=torch.float64))  # counts weigh
    assert not once.rivals
    assert not once.fallback


def test_a_last_token_without_data_falls_back_to_counts() -> None:
    automaton = attention_automaton(count_prompts([[0, 1, 2]], [0], 5), EYE)

    reading = automaton.read([0, 3, 3, 4])

    assert reading.fallback
    assert reading.retrieved == [0, 3, 4]
    assert torch.allclose(reading.p, torch.tensor([0.25, 0, 0, 0.5, 0.25], dtype=torch.float64))


def test_what_the_graph_leaves_open_is_named_and_ranked_by_the_svm() -> None:
    # last token 4: 0 above 1 above 2, and 3 above 2 only
    data = count_prompts([[0, 1, 4], [1, 2, 4], [3, 2, 4]], [0, 1, 3], 5)
    automaton = attention_automaton(data, EYE)

    open_, decided = automaton.read([0, 3, 4]), automaton.read([0, 1, 4])

    assert open_.rivals == [0, 3]
    assert open_.retrieved == [0]
    assert float(automaton.scores[4, 0]) > float(automaton.scores[4, 3])
    assert decided.rivals == []
    assert decided.retrieved == [0]


def test_what_cannot_be_read() -> None:
    automaton = attention_automaton(count_prompts([[0, 1, 2]], [0], 5), EYE)

    with pytest.raises(InputError, match="expected one or more token ids"):
        automaton.read([])
    with pytest.raises(InputError, match="context contains token 5; expected ids from 0 to 4"):
        automaton.read([0, 5])
    with pytest.raises(InputError, match="independent rows"):
        attention_automaton(count_prompts([[0, 1, 2]], [0], 5), EYE[:, :3])
