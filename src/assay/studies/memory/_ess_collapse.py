"""What `effective_state_size` trains on saturation and collapse: recall by one mixer, and a penalty on its decays.

The model is a token embedding with a convolution over two tokens, which puts a key beside its value, one mixer and an
MLP. The paper's have two mixers, of which the first does what the convolution does, and 140,000 steps; ours has a few
hundred. Decays are scaled with the length: `A = sigmoid(.)^(1/beta)` with the paper's beta of 16 at 4096 tokens lets as
much of a state through a sequence as a beta of 1/4 does at 64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from assay.data import Recall, mqar
from assay.lab import Row
from assay.lab.training import token_accuracy, token_loss, train
from assay.losses import identity_decay_penalty
from assay.measures.state_size import entropy_ess
from assay.models import Backbone, BackboneConfig
from assay.nn import Mixer
from assay.nn._short_convolution import ShortConvolution
from assay.nn.recording import recorded_operators


class ConvolvedEmbedding(nn.Embedding):
    """Tokens (B, L) -> (B, L, D): each one's embedding, and a convolution over it and the one before."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width)
        nn.init.normal_(self.weight, std=width**-0.5)
        self.convolution = ShortConvolution(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = super().forward(ids)
        return x + self.convolution(x)


class Task(NamedTuple):
    """MQAR over `room` tokens for each pair, queries spread evenly."""

    pairs: int
    room: int
    vocab: int
    batch: int

    def draw(self, examples: int, generator: torch.Generator) -> Recall:
        return mqar(
            examples, seq_len=self.room * self.pairs, num_kv_pairs=self.pairs, vocab_size=self.vocab, power_a=1,
            generator=generator,
        )  # fmt: skip

    def fewer(self, parts: int) -> Task:
        """A part of the pairs, in so many more sequences."""
        return self._replace(pairs=self.pairs // parts, batch=self.batch * parts)

    def draw_batch(self, generator: torch.Generator) -> Recall:
        """All pairs, half or a quarter of them: the easy ones show what the hard ones need."""
        task = self.fewer(2 ** int(torch.randint(3, (), generator=generator, device=generator.device)))
        return task.draw(task.batch, generator)


def make_model(pattern: str, task: Task, width: int, heads: int, expand_k: int = 1, **options: Any) -> Backbone:
    """A backbone of one mixer with a state of `expand_k * width / heads` for each value channel."""
    mixers = {pattern.split("*")[0]: {"num_heads": heads, "expand_k": expand_k} | options}
    model = Backbone(BackboneConfig(pattern, task.vocab, width, mixers, mlp_ratio=2, tie_word_embeddings=False))
    model.embedding = ConvolvedEmbedding(task.vocab, width)
    return model


def recall(
    *, mixer: str, layers: int, decay: str, options: tuple[tuple[str, Any], ...], penalty: float, state: int,
    width: int, task: tuple[int, ...], steps: int, lr: float, seed: int, device: str,
) -> Row:  # fmt: skip
    """Accuracy with all pairs and with a quarter of them, and ESS of a head of the last layer at the middle, where all
    is written and nothing read, before and after training with `penalty * ||A - I||_F` of that layer in the loss.
    `decay` is a name for the options."""
    del decay
    data, sizes = Task(*task), {"heads": max(1, width // state), "expand_k": max(1, state // width)}
    model = make_model(f"ess-{mixer.lower()}*{layers}", data, width, **sizes, **dict(options)).to(device)

    def loss(model: nn.Module, batch: Recall) -> Tensor:
        if not penalty:
            return token_loss(model, batch)
        with recorded_operators(*model.get_submodule(f"layers.{layers - 1}").modules()) as operators:
            own = token_loss(model, batch)
        return own + penalty * identity_decay_penalty(*operators)  # type: ignore[arg-type]

    few, many = (task.draw(256, torch.Generator(device).manual_seed(2**40 + seed)) for task in (data.fewer(4), data))
    before = middle_ess(model, many)
    train(model, data.draw_batch, steps=steps, seed=seed, lr=lr, loss=loss)
    ess = middle_ess(model, many)
    return {
        "ess": ess,
        "initial_ess": before,
        "utilisation": ess / state,
        "accuracy": token_accuracy(model, many),
        "accuracy_few": token_accuracy(model, few),
    }


@torch.no_grad()
def middle_ess(model: Backbone, batch: Recall, examples: int = 8) -> float:
    """Mean entropy-ESS of the heads of the last layer at the middle of the sequences."""
    mixer = model.layers[-1].mixer
    assert isinstance(mixer, Mixer)
    with recorded_operators(mixer) as operators:
        model(batch.inputs[:examples])
    return float(entropy_ess(operators[0].hankel_singular_values([batch.inputs.shape[1] // 2])).mean())
