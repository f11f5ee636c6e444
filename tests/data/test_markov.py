"""Markov and hidden Markov sources against loops, direct sums over all strings, and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from laws import ACCEPT, REJECT, p_of_law
from torch import Tensor

from assay._errors import InputError
from assay.data.hmm import HMMSource
from assay.data.markov import MarkovSource, symbols_of, thresholds


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_source(order: int, alphabet: int, seed: int = 0) -> MarkovSource:
    return MarkovSource(torch.rand([alphabet] * (order + 1), generator=seeded(seed)).double().softmax(-1))


def entropy(law: Tensor) -> float:
    return float(-(law * law.log()).sum())


def law_of_strings(source: MarkovSource, length: int) -> dict[tuple[int, ...], float]:
    """P(x_1..x_length) of every string, symbol by symbol; length >= order."""
    found = {}
    for string in itertools.product(range(source.alphabet), repeat=length):
        p = float(source.stationary[string[: source.order]])
        for t in range(source.order, length):
            p *= float(source.transition[string[t - source.order : t + 1]])
        found[string] = p
    return found


@pytest.mark.parametrize(("order", "alphabet"), [(0, 3), (1, 4), (2, 3), (3, 2)])
def test_the_stationary_law_is_kept_by_a_step(order: int, alphabet: int) -> None:
    source = random_source(order, alphabet)
    joint = source.stationary[..., None] * source.transition

    assert math.isclose(float(source.stationary.sum()), 1, abs_tol=1e-12)
    if order:
        assert torch.allclose(joint.sum(0), source.stationary, atol=1e-14)


@pytest.mark.parametrize(("order", "alphabet"), [(0, 3), (1, 3), (2, 2)])
def test_the_entropy_rate_is_what_a_longer_string_adds(order: int, alphabet: int) -> None:
    source = random_source(order, alphabet)
    block = [
        -sum(p * math.log(p) for p in law_of_strings(source, length).values()) for length in (order + 1, order + 2)
    ]

    assert math.isclose(source.entropy_rate(), block[1] - block[0], rel_tol=1e-12)
    marginal = torch.zeros(alphabet, dtype=torch.float64)
    for string, p in law_of_strings(source, order + 1).items():
        marginal[string[-1]] += p
    assert math.isclose(source.marginal_entropy(), entropy(marginal), rel_tol=1e-12)
    assert source.entropy_rate() <= source.marginal_entropy() + 1e-12


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_switching_process_is_a_repetition_with_flips(order: int) -> None:
    source = MarkovSource.switching(order, 0.1)
    (x,) = source.sample(1, 100_000, generator=seeded())

    assert math.isclose(source.entropy_rate(), -0.1 * math.log(0.1) - 0.9 * math.log(0.9), rel_tol=1e-12)
    assert math.isclose(source.marginal_entropy(), math.log(2), rel_tol=1e-12)
    flips = (x[order:] != x[:-order]).tolist()
    assert p_of_law(flips, {True: 0.1, False: 0.9}) > ACCEPT
    assert p_of_law(flips, {True: 0.12, False: 0.88}) < REJECT
    assert torch.allclose(source.stationary, torch.tensor(0.5**order).double(), rtol=1e-12)


@pytest.mark.parametrize(("order", "alphabet"), [(0, 3), (1, 3), (2, 2), (3, 2)])
def test_samples_have_the_law_of_the_chain(order: int, alphabet: int) -> None:
    source = random_source(order, alphabet)
    law = law_of_strings(source, max(order, 1) + 1)
    x = source.sample(20_000, 9, generator=seeded())

    for start in (0, 9 - order - 2):  # stationary from the first symbol on
        strings = x[:, start : start + max(order, 1) + 1].tolist()
        assert p_of_law(map(tuple, strings), law) > ACCEPT
    independent = dict.fromkeys(law, 1 / len(law))
    assert p_of_law(map(tuple, strings), independent) < REJECT


@pytest.mark.parametrize(
    ("order", "alphabet", "length"), [(0, 3, 50), (1, 2, 1), (2, 3, 1), (2, 3, 101), (3, 2, 64), (6, 3, 40)]
)
def test_sampling_in_pieces_is_sampling_symbol_by_symbol(order: int, alphabet: int, length: int) -> None:
    source = random_source(order, alphabet)
    fast = source.sample(3, length, generator=seeded(5)).tolist()

    generator = seeded(5)
    starts = torch.rand(3, generator=generator, dtype=torch.float64)
    uniform = torch.rand(3, max(length - order, 0), generator=generator, dtype=torch.float64)
    contexts = list(itertools.product(range(alphabet), repeat=order))
    for row in range(3):
        total, string = 0.0, []
        for context in contexts:
            total += float(source.stationary[context])
            if starts[row] < total:
                string = list(context)
                break
        for u in uniform[row].tolist():
            heights = source.transition[tuple(string[len(string) - order :])].cumsum(0)
            string.append(int((u >= heights[:-1]).sum()))
        assert fast[row] == string[:length]


def test_a_symbol_of_probability_zero_is_never_drawn() -> None:
    laws = torch.tensor([[0.1] * 10 + [0.0], [0.0] + [0.1] * 10], dtype=torch.float64)
    heights = thresholds(laws)

    assert symbols_of(torch.tensor([1 - 2**-53, 1 - 2**-53], dtype=torch.float64), heights).tolist() == [9, 10]
    assert symbols_of(torch.tensor([0.0, 0.0], dtype=torch.float64), heights).tolist() == [0, 1]


def test_rare_moves_keep_their_accuracy() -> None:
    slow = torch.tensor([[1 - 1e-13, 1e-13], [3e-13, 1 - 3e-13]], dtype=torch.float64)

    assert torch.allclose(MarkovSource(slow).stationary, torch.tensor([0.75, 0.25]).double(), rtol=1e-3)
    cycle = torch.tensor([[0, 1, 0], [0, 0, 1], [1e-9, 0, 1 - 1e-9]], dtype=torch.float64)
    assert torch.allclose(MarkovSource(cycle).stationary[:2], torch.tensor([1e-9, 1e-9]).double(), rtol=1e-6, atol=0)


def test_contexts_that_are_left_for_good_are_allowed() -> None:
    source = MarkovSource(torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.3, 0.3, 0.4]]))

    assert float(source.stationary[2]) == 0
    assert int(source.sample(4, 200, generator=seeded()).max()) == 1


@pytest.mark.parametrize(
    ("transition", "words"),
    [
        ([[0.5, 0.6], [0.5, 0.5]], "not stochastic"),
        ([[1.5, -0.5], [0.5, 0.5]], "not stochastic"),
        ([[math.nan, 0.5], [0.5, 0.5]], "not stochastic"),
        ([[1.0, 0.0], [0.0, 1.0]], "2 classes"),
        ([[0.0, 1.0], [1.0, 0.0]], "period 2"),
        ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], "period 3"),
        ([[0.5, 0.5]], "all axes of one size"),
        ([], "expected a tensor of laws"),
    ],
)
def test_what_is_no_ergodic_chain_is_refused(transition: list[list[float]], words: str) -> None:
    with pytest.raises(InputError, match=f"transition .*{words}"):
        MarkovSource(torch.tensor(transition))


def test_other_arguments_that_are_wrong_are_refused() -> None:
    for flip in (0.0, 1.0, math.nan):
        with pytest.raises(InputError, match="flip"):
            MarkovSource.switching(2, flip)
    with pytest.raises(InputError, match="order"):
        MarkovSource.switching(0, 0.1)
    with pytest.raises(InputError, match="length"):
        MarkovSource.switching(2, 0.1).sample(1, 0, generator=seeded())
    with pytest.raises(InputError, match="generator"):
        MarkovSource.switching(2, 0.1).sample(1, 5, generator=3)


# ---- hidden chains


def hmm() -> HMMSource:
    return HMMSource(
        torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]]),
        torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]),
    )


def test_filtering_is_bayes_over_all_paths_of_states() -> None:
    source = hmm()
    symbols = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    filtered, predicted = source.filter(symbols), source.next_symbol_law(symbols)

    for row, string in enumerate(symbols.tolist()):
        for t in range(5):
            by_state, by_symbol = [0.0] * 3, [0.0] * 2
            for path in itertools.product(range(3), repeat=t + 1):
                p = float(source.states.stationary[path[0]])
                for s in range(t):
                    p *= float(source.emission[path[s], string[s]]) * float(source.transition[path[s], path[s + 1]])
                by_state[path[t]] += p * float(source.emission[path[t], string[t]])
                for a in range(2):
                    by_symbol[a] += p * float(source.emission[path[t], a])
            assert torch.allclose(filtered[row, t], torch.tensor(by_state).double() / sum(by_state), atol=1e-7)
            assert torch.allclose(predicted[row, t], torch.tensor(by_symbol).double() / sum(by_symbol), atol=1e-7)


def test_hidden_samples_come_from_their_states_and_the_law_predicts_them() -> None:
    source = hmm()
    symbols, states = source.sample(300, 60, generator=seeded())

    for state in range(3):
        emitted = symbols[states == state].tolist()
        assert p_of_law(emitted, {a: float(source.emission[state, a]) for a in range(2)}) > ACCEPT
    law = source.next_symbol_law(symbols)
    # calibrated: of the positions with a predicted chance of 1 in a bin, as many are 1
    chance = law[..., 1].flatten()
    for low in (0.4, 0.5, 0.6):
        chosen = (chance >= low) & (chance < low + 0.1)
        expected = chance[chosen]
        error = float((symbols.flatten()[chosen].double() - expected).sum())
        assert abs(error) < 4 * math.sqrt(float((expected * (1 - expected)).sum()))
    nats = -law.gather(-1, symbols[..., None]).log().mean()
    independent = -(symbols.double().mean() * law.new_tensor(0.5).log() + (1 - symbols.double().mean()) * math.log(0.5))
    assert nats < independent


def test_a_chain_that_shows_its_states_is_a_markov_source() -> None:
    chain = random_source(1, 3)
    seen = HMMSource(chain.transition, torch.eye(3))
    symbols, states = seen.sample(2, 30, generator=seeded())

    assert torch.equal(symbols, states)
    assert torch.allclose(seen.next_symbol_law(symbols)[:, 1:], chain.transition[symbols[:, :-1]])
    assert torch.allclose(seen.next_symbol_law(symbols)[:, 0], chain.stationary)


def test_hidden_sources_that_are_wrong_are_refused() -> None:
    good, emission = hmm().transition, hmm().emission
    with pytest.raises(InputError, match="emission is not stochastic"):
        HMMSource(good, emission + 0.1)
    with pytest.raises(InputError, match="expected \\(S, S\\) and \\(S, A\\)"):
        HMMSource(good, emission[:2])
    with pytest.raises(InputError, match="period"):
        HMMSource(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.eye(2))
    with pytest.raises(InputError, match=r"expected \(B, L\) with symbols"):
        hmm().filter(torch.tensor([[0, 2]]))
    with pytest.raises(InputError, match="probability 0"):
        HMMSource(good, torch.tensor([[1.0, 0.0]] * 3)).filter(torch.tensor([[0, 1]]))
