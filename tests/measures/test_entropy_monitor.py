"""What the monitor notes, against weights computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from assay._errors import InputError
from assay.measures.attention import attention_entropy
from assay.measures.entropy_monitor import EntropyMonitor


class Head(nn.Module):
    """Attention in one of the ways in which models write it; `weights` are what it used."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.weights = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k = x, x.flip(-1)
        causal = torch.ones(x.shape[-2], x.shape[-2], dtype=torch.bool).tril()
        scale = 0.7 if self.way == "scale" else x.shape[-1] ** -0.5
        logits = q @ k.mT * scale
        bias = torch.linspace(-1, 1, x.shape[-2], dtype=x.dtype).expand_as(causal)
        masks = {"is_causal": {"is_causal": True}, "mask": {"attn_mask": causal}, "bias": {"attn_mask": bias}}
        if self.way in ("is_causal", "mask"):
            logits = logits.masked_fill(~causal, -torch.inf)
        self.weights = (logits + bias if self.way == "bias" else logits).exp()
        self.weights = self.weights / self.weights.sum(-1, keepdim=True)  # no softmax for the monitor to see
        if self.way == "softmax":
            return logits.softmax(dim=-1) @ x
        if self.way == "torch.softmax":
            return torch.softmax(logits, -1) @ x
        return scaled_dot_product_attention(q, k, x, scale=scale, **masks.get(self.way, {}))  # type: ignore[arg-type]


WAYS = ["plain", "is_causal", "mask", "bias", "scale", "softmax", "torch.softmax"]


@pytest.mark.parametrize("way", WAYS)
def test_the_entropy_is_that_of_the_weights_used(way: str) -> None:
    model = nn.Sequential(nn.Identity(), Head(way))
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with EntropyMonitor(model) as monitor:
        y = model(x)

    assert list(monitor.entropy) == ["1"]
    expected = attention_entropy(model[1].weights).mean((0, 2))  # type: ignore[arg-type]
    assert torch.allclose(monitor.entropy["1"], expected, atol=1e-12)
    assert torch.equal(y, model(x))
    assert not torch.allclose(monitor.entropy["1"], expected.roll(1))  # heads differ, so their order counts


def test_grouped_queries_share_keys() -> None:
    class Grouped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True)

    x = torch.randn(1, 4, 5, 3)
    with EntropyMonitor(Grouped()) as monitor:
        monitor.model(x)
    keys = x[:, [0, 0, 1, 1]]

    weights = (x @ keys.mT / 3**0.5).softmax(-1)
    assert torch.allclose(monitor.entropy[""], attention_entropy(weights).mean((0, 2)), atol=1e-6)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_attention_module_of_torch_is_seen(need_weights: bool, dropout: float) -> None:
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True), torch.randn(3, 5, 8)
    torch.manual_seed(1)
    with EntropyMonitor(layer) as monitor:
        y = layer(x, x, x, need_weights=need_weights)[0]
    torch.manual_seed(1)

    assert torch.equal(y, layer(x, x, x, need_weights=need_weights)[0])  # the same draws for dropout
    weights = layer.eval()(x, x, x, average_attn_weights=False)[1]
    assert torch.allclose(monitor.entropy[""], attention_entropy(weights).mean((0, 2)))


def test_other_softmaxes_are_passed_over() -> None:
    class Classifier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.softmax(-1) + x[None, None].softmax(2)[0, 0]

    with EntropyMonitor(Classifier()) as monitor:
        monitor.model(torch.randn(3, 4))

    assert monitor.entropy == {}


def test_gradients_pass_and_nothing_is_left_behind() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Head("is_causal"))
    x = torch.randn(1, 2, 5, 4)
    with EntropyMonitor(model) as monitor:
        model(x).sum().backward()
        with pytest.raises(InputError, match="already open"), monitor:
            pass
    noted = dict(monitor.entropy)
    model(x + 1)

    assert model[0].weight.grad is not None
    assert not monitor.entropy["1"].requires_grad
    assert torch.equal(monitor.entropy["1"], noted["1"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_that_raises_leaves_the_names_right() -> None:
    class Picky(Head):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != 4:
                raise ValueError("no")
            return super().forward(x)

    model = nn.Sequential(nn.Identity(), Picky("plain"))
    with EntropyMonitor(model) as monitor:
        with pytest.raises(ValueError, match="no"):
            model(torch.randn(1, 1, 3, 5))
        model(torch.randn(1, 1, 3, 4))

    assert list(monitor.entropy) == ["1"]
