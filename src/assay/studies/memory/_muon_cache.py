"""What latent attention keeps for each token, counted on the tensors of its decoding state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.nn.attention import SoftmaxAttention
from assay.nn.latent_attention import LatentAttention

Row = dict[str, Any]


@torch.no_grad()
def cache(*, width: int, heads: int, latent: int, rope: int, tokens: int, device: str) -> list[Row]:
    """Numbers kept for each token, and how far decoding is from the parallel form (relative, float64). The control
    keeps a latent vector as large as keys and values together."""
    mixers: dict[str, SoftmaxAttention | LatentAttention] = {
        "full": SoftmaxAttention(width, num_heads=heads),
        "latent": LatentAttention(width, num_heads=heads, kv_lora_rank=latent, qk_rope_head_dim=rope),
        "latent of full rank": LatentAttention(width, num_heads=heads, kv_lora_rank=2 * width, qk_rope_head_dim=rope),
    }
    x = torch.randn(1, tokens, width, dtype=torch.float64, device=device)
    rows = []
    for name, mixer in mixers.items():
        mixer.to(device, torch.float64)
        state: Any = None
        outputs = []
        for t in range(tokens):
            y, state = mixer.step(x[:, t], state)
            outputs.append(y)
        whole = mixer(x)
        off = (torch.stack(outputs, 1) - whole).norm() / whole.norm()
        kept = sum(part.numel() for part in state or () if isinstance(part, Tensor))
        rows.append({"attention": name, "numbers": kept / tokens, "off_by": off.item()})
    return rows
