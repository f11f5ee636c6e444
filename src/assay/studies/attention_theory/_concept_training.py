"""What `icl_multi_concept` runs: attention over demonstrations, trained by SGD, and tested on other prompts."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.optim import SGD

from assay.data.multi_concept import ConceptPrompts, MultiConceptPrompts
from assay.icl.concept_attention import (
    ConceptAttentionClassifier,
    concept_error,
    concept_loss,
    concept_projections,
)
from assay.lab import Row
from assay.lab.training import train


def training(
    *, variant: str, num_concepts: int, num_irrelevant: int, d: int, kappa: float, noise: float, demonstrations: int,
    width: int, batch: int, steps: int, test: int, seed: int, device: str,
) -> list[Row]:  # fmt: skip
    """Rows of the error on fresh prompts while a model trains, and one at the end: projections of its attention, and
    the error on prompts of other kinds.

    `variant`: "trained"; "frozen", the attention stays as it was; "shuffled", labels come from other prompts.
    """
    generator = torch.Generator(device).manual_seed(seed)
    prompts = MultiConceptPrompts(num_concepts=num_concepts, num_irrelevant=num_irrelevant, d=d, kappa=kappa,
                                  noise=noise, num_demonstrations=demonstrations, dictionary_seed=seed)  # fmt: skip
    model = ConceptAttentionClassifier(d, width, generator=generator)
    sign_at_first, rest_at_first = _growth(model, prompts)
    fresh = prompts.sample(test, generator=generator)

    def draw(generator: torch.Generator) -> ConceptPrompts:
        drawn = prompts.sample(batch, generator=generator)
        if variant != "shuffled":
            return drawn
        return drawn._replace(labels=drawn.labels[torch.randperm(batch, generator=generator, device=generator.device)])

    groups = [{"params": [model.output], "lr": width / 4}]
    if variant != "frozen":
        groups.append({"params": [model.attention], "lr": 5.0})
    # the rate falls as a cosine over 20 times as many steps, so it is constant to 1 % as long as this runs
    course = train(model, draw, steps=20 * steps, seed=seed, loss=concept_loss, warmup=0, clip=math.inf,
                   optimizers=[SGD(groups, lr=1.0)], every=10, stop=lambda row: row["step"] >= steps,
                   measure=lambda model: {"error": concept_error(model, fresh)})  # fmt: skip
    about = {"variant": variant, "demonstrations": demonstrations, "batch": batch, "floor": prompts.floor}
    others = {
        "longer": replace(prompts, num_demonstrations=40),
        "unbalanced": replace(prompts, num_demonstrations=40, positive_share=0.2),
        "mixed": replace(prompts, mixed=0.7),
        "other_dictionary": replace(prompts, dictionary_seed=seed + 10_000),
    }
    sign, rest = _growth(model, prompts)
    end: Row = {name: concept_error(model, kind.sample(test, generator=generator)) for name, kind in others.items()}
    end |= {
        "error": course[-1]["error"],
        "sign": sign,
        "rest": rest,
        "sign_at_first": sign_at_first,
        "rest_at_first": rest_at_first,
    }
    return [{"at": "course", "step": row["step"], "error": row["error"]} | about for row in course] + [
        {"at": "end"} | end | about
    ]


def _growth(model: ConceptAttentionClassifier, prompts: MultiConceptPrompts) -> tuple[float, float]:
    """The least projection of attention on a sign feature, and the largest on any other."""
    found = concept_projections(model.attention.detach(), prompts.dictionary)
    return found.sign.min().item(), torch.cat([found.topic, found.irrelevant]).abs().max().item()
