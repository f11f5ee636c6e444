"""The backbone: patterns, training, saving, decoding step by step, and being measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT
from torch import Tensor, nn

import assay
from assay._errors import InputError
from assay.models import contract
from assay.models._pattern import parse_pattern
from assay.models.backbone import Backbone, BackboneConfig
from assay.models.trace import find_mixers, trace
from assay.nn import MIXERS
from assay.operators import DenseOperator

KNOWN = ["attention", "gla", "mamba2", "linear-attention"]
VOCABULARY = 300


def make(pattern: str = "attention,gla*2", **changes: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig(pattern, **{"vocab_size": VOCABULARY, "d_model": 32} | changes)).eval()


def ids(batch: int = 2, length: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("gla", ["gla"]),
        ("attention,gla*3", ["attention", "gla", "gla", "gla"]),
        (" attention , gla * 2 ", ["attention", "gla", "gla"]),
        ("(attention,gla)*2", ["attention", "gla", "attention", "gla"]),
        ("(gla*2,(mamba2)*2)*2,attention", ["gla", "gla", "mamba2", "mamba2"] * 2 + ["attention"]),
        ("linear-attention", ["linear-attention"]),
    ],
)
def test_a_pattern_is_a_list_of_layers(pattern: str, layers: list[str]) -> None:
    assert parse_pattern(pattern, KNOWN) == layers


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "attention,gl*3",
            r"there is no mixer 'gl' .*\(did you mean 'gla'\?\); there are attention, gla, linear-attent",
        ),
        ("Mamba2", r"did you mean 'mamba2'\?"),
        ("", r"pattern '' cannot be read at its end; expected names, such as"),
        ("gla,", "cannot be read at its end"),
        ("gla*", "cannot be read at its end"),
        ("gla*0", "cannot be read at '0'"),
        ("gla*attention", "cannot be read at 'attention'"),
        ("(gla", "cannot be read at its end"),
        ("gla)", r"cannot be read at '\)'"),
        ("gla attention", "cannot be read at 'attention'"),
        ("3*gla", "there is no mixer '3'|cannot be read at"),
        ("gla*9999,gla*9999", "has more than 10,000 layers"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_pattern(pattern, KNOWN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixers": {"mamba2": {}}}, "mixers has options for 'mamba2', which is not in the pattern"),
        ({"mixers": {"gla": {"head": 2}}}, r"mixers\['gla'\] is \{'head': 2\}: .*unexpected keyword argument 'head'"),
        ({"d_model": 0}, "d_model is 0; expected at least 1"),
        ({"vocab_size": 0}, "vocab_size is 0; expected at least 1"),
        ({"mlp_ratio": -1.0}, "mlp_ratio is -1.0; expected at least 0"),
        ({"d_model": 33}, "d_model is 33|expected a positive multiple of num_heads"),
    ],
)
def test_a_config_that_cannot_be_built_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("gla", **changes)


# --- the model


def test_the_parts_are_where_the_config_says() -> None:
    model = make("attention,gla*2", mixers={"gla": {"num_heads": 2}}, mlp_ratio=2.0)

    assert model.config.num_hidden_layers == len(model.layers) == 3
    assert [type(layer.mixer) for layer in model.layers] == [MIXERS["attention"], MIXERS["gla"], MIXERS["gla"]]
    assert model.layers[1].mixer.num_heads == 2
    assert model.config.num_attention_heads == 4
    assert model.layers[1].mlp.down.in_features == 64
    assert model.head.weight is model.embedding.weight
    assert make("gla", tie_word_embeddings=False).head.weight.shape == (VOCABULARY, 32)
    assert make("gla", mlp_ratio=0).layers[0].mlp is None


def test_a_layer_is_its_formula() -> None:
    """x + mixer(norm x), then x + W_3 (silu(W_1 x) o W_2 x) of norm x."""
    layer, x = make("gla").layers[0], torch.randn(1, 10, 32)
    z = x + layer.mixer(x / x.square().mean(-1, keepdim=True).add(1e-5).sqrt())
    n = z / z.square().mean(-1, keepdim=True).add(1e-5).sqrt()
    W1, W2 = layer.mlp.up.weight.chunk(2)

    assert torch.allclose(
        layer(x), z + (nn.functional.silu(n @ W1.T) * (n @ W2.T)) @ layer.mlp.down.weight.T, atol=1e-6
    )


def test_weights_start_small_and_mixers_keep_their_own() -> None:
    model = make("retnet*2", d_model=64)
    mlp = model.layers[0].mlp

    assert float(model.embedding.weight.detach().std()) == pytest.approx(1 / 8, rel=0.05)
    assert float(mlp.up.weight.detach().std()) == pytest.approx((3 * 64) ** -0.5, rel=0.05)  # nn.Linear
    assert float(mlp.down.weight.detach().std()) == pytest.approx((3 * 171) ** -0.5 / 2, rel=0.05)  # / sqrt(2 layers)
    xavier = 2**-2.5 * (6 / 192) ** 0.5
    assert float(model.layers[0].mixer.v.weight.detach().abs().max()) == pytest.approx(xavier, rel=0.01)


def test_the_loss_is_that_of_the_next_token() -> None:
    model, x = make(), ids()
    labels = x.clone()
    labels[0, 5:] = -100

    out = model(x, labels=labels)

    log_p = out.logits[:, :-1].log_softmax(-1).gather(-1, x[:, 1:, None])[..., 0]
    kept = torch.cat([log_p[0, :4], log_p[1]])
    assert float(out.loss.detach()) == pytest.approx(-float(kept.detach().mean()), rel=1e-5)


def test_padding_on_the_right_changes_nothing_and_elsewhere_is_refused() -> None:
    model, x = make(), ids()
    mask = torch.ones_like(x)
    mask[0, 30:] = 0

    assert torch.allclose(model(x, attention_mask=mask).logits[0, :30], model(x[:1, :30]).logits[0], atol=1e-5)
    for wrong in (mask.flip(1), mask.roll(3, 1)):
        with pytest.raises(InputError, match="padding before tokens; expected padding on the right only"):
            model(x, attention_mask=wrong)


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_steps_are_the_forward(name: str) -> None:
    model, x = make(f"{name},attention").double(), ids(length=20)
    states, logits = None, []
    with torch.no_grad():
        for t in range(x.shape[1]):
            out, states = model.step(x[:, t], states)
            logits.append(out)

        assert torch.allclose(torch.stack(logits, 1), model(x).logits, atol=1e-9)
        assert not torch.allclose(model.step(x[:, -1])[0], logits[-1], atol=1e-3)  # the control: no memory


def test_the_states_of_a_recurrence_do_not_grow() -> None:
    def floats(model: Backbone, steps: int) -> int:
        states = None
        with torch.no_grad():
            for t in range(steps):
                _, states = model.step(ids(1)[:, t], states)
        tensors = [t for state in states or [] for t in (state if isinstance(state, tuple) else (state,))]
        return sum(t.numel() for t in tensors if isinstance(t, Tensor))

    assert floats(make("gla,mamba2"), 3) == floats(make("gla,mamba2"), 9)
    assert floats(make("attention"), 3) < floats(make("attention"), 9)  # the control


def test_training_lowers_the_loss() -> None:
    """Sequences in which every token follows from the one before."""
    model = make("attention,gla").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = (ids(4, 1) + 7 * torch.arange(30)) % VOCABULARY
    losses = []
    for _ in range(40):
        loss = model(x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[0] == pytest.approx(5.7, abs=1.0)  # ln 300
    assert losses[-1] < 0.2


# --- saved, opened, measured


def test_what_was_saved_is_what_comes_back(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = make("(attention,gla)*2,mamba2", mixers={"mamba2": {"state_size": 16}}, mlp_ratio=1.0, norm_eps=1e-6)
    model.save_pretrained(tmp_path)

    for back in (Backbone.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert isinstance(back, Backbone)
        assert torch.equal(back(ids()).logits, model(ids()).logits)
        assert back.config.layers == model.config.layers
        assert back.config.mixers == {"mamba2": {"state_size": 16}}
        assert (back.config.mlp_ratio, back.config.norm_eps) == (1.0, 1e-6)
    assert [path.suffix for path in tmp_path.iterdir() if "model" in path.name] == [".safetensors"]


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_every_mixer_can_be_saved(name: str, tmp_path: Path) -> None:
    """Weights are made without memory first: a constructor must not look into its tensors, nor hide any."""
    model = make(name)
    model.save_pretrained(tmp_path)

    assert torch.equal(Backbone.from_pretrained(tmp_path)(ids()).logits, model(ids()).logits)


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_every_mixer_is_found_and_measured(name: str) -> None:
    """Whatever lies inside a mixer (convolutions, an LSTM), the mixer itself is taken, and its T is exact."""
    model = make(name)
    layer = model.layers[0]
    assert [(path, module) for path, module, _ in find_mixers(layer)] == [("mixer", layer.mixer)]

    (found,) = trace(model.double(), ids()).mixers

    assert found.reading is not None, found.reason
    assert found.fidelity < 1e-9


def test_the_kind_of_an_operator() -> None:
    kinds = [m.reading.kind for m in trace(make("attention,gla,linear-attention"), ids()).mixers if m.reading]

    assert kinds == ["attention", "recurrence", "recurrence"]


def test_a_dense_operator_is_attention_only_where_its_rows_are_weights() -> None:
    from assay.models.adapters.mixers import _kind

    weights = torch.randn(2, 3, 8, 8).masked_fill(torch.ones(8, 8).triu(1) > 0, -torch.inf).softmax(-1)

    assert _kind(DenseOperator(weights)) == "attention"
    assert _kind(DenseOperator(2 * weights)) != "attention"
    assert _kind(DenseOperator(weights - 0.5 * torch.eye(8))) != "attention"


def test_the_adapter_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(contract.CHECKS, "left padding")  # which a backbone refuses

    contract.check_adapter(lambda: make("attention,gla,mamba2,rwkv6"))


def test_a_backbone_is_measured(tiny_tokenizer: Any) -> None:
    report = assay.measure(make("attention,gla,retnet"), TEXT, tiny_tokenizer, max_tokens=64)

    assert report.layers["measured"].all()
    assert list(report.layers["kind"]) == ["attention", "recurrence", "recurrence"]
    assert (report.layers["fidelity"] < 1e-5).all()


def test_a_saved_backbone_is_opened_by_its_folder(tmp_path: Path, tiny_tokenizer: Any) -> None:
    make("attention,gla").save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)

    report = assay.measure(str(tmp_path), TEXT, max_tokens=64)

    assert report.layers["measured"].all()
