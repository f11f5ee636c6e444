"""What holds for every generator: all randomness comes from the generator that is passed, and from nowhere else."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import assay.data as data

IDS = torch.arange(100)
LINEAR = data.InContext(data.LinearTasks(3), data.RetrievedInputs(0.5), noise=0.1)
HMM = data.HMMSource(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
KEYS = data.QueryKeyTarget(torch.tensor([1.0, 0.0]), "keys", 2)
GENERATORS: dict[str, Callable[[torch.Generator], Any]] = {
    "mqar": lambda g: data.mqar(8, seq_len=32, num_kv_pairs=4, random_non_queries=True, generator=g),
    "mqar, dense": lambda g: data.mqar(8, seq_len=32, num_kv_pairs=4, vocab_size=16, generator=g),
    "forgetting": lambda g: data.forgetting_mqar(8, seq_len=32, num_kv_pairs=4, num_updates=2, generator=g),
    "compositional": lambda g: data.compositional_mqar(8, seq_len=32, num_kv_pairs=4, generator=g),
    "continuous": lambda g: data.continuous_mqar(8, num_kv_pairs=4, embeddings=torch.eye(32), generator=g),
    "stream": lambda g: data.mqar_stream(8, document_len=16, num_kv_pairs=4, generator=g),
    "copying": lambda g: data.selective_copying(8, generator=g),
    "compression": lambda g: data.compression(8, generator=g),
    "sets": lambda g: data.set_disjointness(8, len_a=4, len_b=5, generator=g),
    "mask": lambda g: data.mask_prefix(IDS, 50, generator=g),
    "split": lambda g: data.split_documents(data.tokenise(list("abcdefgh"), "character"), generator=g)[0].documents,
    "shuffle": lambda g: data.shuffle_tokens(data.tokenise(["abcdefgh" * 9], "character"), generator=g).documents,
    "windows": lambda g: data.random_windows(IDS, 8, seq_len=4, generator=g),
    "zipf": lambda g: (data.zipf_classes(50, generator=g),),
    "in context": lambda g: LINEAR.sample(8, 5, generator=g)[:4],
    "dynamics": lambda g: (data.linear_dynamics(8, 5, generator=g),),
    "Markov": lambda g: (data.MarkovSource.switching(2, 0.2).sample(4, 20, generator=g),),
    "HMM": lambda g: HMM.sample(4, 20, generator=g),
    "algorithmic": lambda g: data.AlgorithmicTask("sort").sample(8, max_length=6, generator=g),
    "concepts": lambda g: data.MultiConceptPrompts().sample(8, generator=g),
    "query and keys": lambda g: KEYS.sample(8, num_keys=3, generator=g),
}


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_a_seed_fixes_everything_and_nothing_else_does(make: Callable[[torch.Generator], Any]) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = make(torch.Generator().manual_seed(3))

    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    torch.rand(7)
    again = torch.Generator().manual_seed(3)
    assert same(first, make(again))
    assert not same(first, make(again))  # it goes on from there
    assert not same(first, make(torch.Generator().manual_seed(4)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_a_generator_of_another_device_draws_there(make: Callable[[torch.Generator], Any]) -> None:
    first = make(torch.Generator("cuda").manual_seed(3))
    assert same(first, make(torch.Generator("cuda").manual_seed(3)))
