"""Train the two built-in models: ``python -m assay.models.builtin.train attention|mamba``.

Both read the same text (the documentation and source of Python's standard library, which every machine that runs
assay has), through the same byte-level BPE tokenizer, at about the same size. They exist so that ``assay measure``
has something real to show without a network: small models that have learned to read, not random weights.
"""

import argparse
import ast
import hashlib
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

LENGTH = 512
VOCAB_SIZE = 1024
END_OF_TEXT = "<|endoftext|>"
HERE = Path(__file__).parent
RECIPES = {"attention": dict(batch=16, steps=900, lr=2e-3), "mamba": dict(batch=8, steps=1150, lr=3e-3)}


def documents() -> tuple[list[str], list[str]]:
    """(training, held-out) documents: help topics, docstrings and source files of the standard library."""
    import os
    import sysconfig
    from pydoc_data.topics import topics

    found: list[str] = list(topics.values())
    skipped = {"site-packages", "test", "tests", "idlelib", "pydoc_data", "lib2to3", "encodings", "__pycache__"}
    for folder, names, files in os.walk(sysconfig.get_paths()["stdlib"]):
        names[:] = sorted(set(names) - skipped)
        for file in sorted(f for f in files if f.endswith(".py")):
            source = (Path(folder) / file).read_text(encoding="utf-8", errors="ignore")
            found.append(source)
            found.append("\n\n".join(_docstrings(source)))
    found = [text.strip() for text in found if len(text) > 400]
    held_out = [text for text in found if hashlib.sha256(text.encode()).digest()[0] < 8]  # about 3 %
    return [text for text in found if text not in set(held_out)], held_out


def _docstrings(source: str) -> list[str]:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in nodes if isinstance(node, kinds)]
    return [text for text in texts if text and len(text) > 80]


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """Byte-level BPE: any text can be encoded, and every token is a string of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, model_max_length=LENGTH
    ).save_pretrained(folder)


def build(kind: str) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

    common = dict(
        vocab_size=VOCAB_SIZE, hidden_size=128, num_hidden_layers=4, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    if kind == "attention":
        heads = dict(intermediate_size=384, num_attention_heads=4, max_position_embeddings=LENGTH)
        return LlamaForCausalLM(LlamaConfig(**common, **heads))
    return MambaForCausalLM(MambaConfig(**common, state_size=16))


class _SelectiveScan(torch.autograd.Function):
    """``h_t = a_t h_{t-1} + x_t`` along dim 0, without a graph node per step (autograd's own is 60 times slower)."""

    @staticmethod
    def forward(ctx, a: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        h = x.clone()
        for t in range(1, len(h)):
            h[t].addcmul_(a[t], h[t - 1])
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        a, h = ctx.saved_tensors
        grad_x = grad.clone()
        for t in range(len(h) - 2, -1, -1):
            grad_x[t].addcmul_(a[t + 1], grad_x[t + 1])
        grad_a = torch.zeros_like(a)
        grad_a[1:] = grad_x[1:] * h[:-1]
        return grad_a, grad_x


def _fast_scan(u, dt, A, B, C, D=None, z=None, delta_bias=None, **_) -> Tensor:
    """transformers' ``mamba_selective_scan`` with the scan above; u, dt: (B, D, L); B, C: (B, N, L)."""
    dt = torch.nn.functional.softplus(dt + delta_bias[:, None]).permute(2, 0, 1).contiguous()  # (L, B, D)
    x = dt * u.permute(2, 0, 1)
    b, c = B.permute(2, 0, 1), C.permute(2, 0, 1)  # (L, B, N)
    h = _SelectiveScan.apply(torch.exp(dt[..., None] * A), x[..., None] * b[:, :, None])
    y = (h @ c[..., None]).squeeze(-1).permute(1, 2, 0) + u * D[:, None]
    return y * torch.nn.functional.silu(z)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = RECIPES[args.kind]
    steps, batch = args.steps or recipe["steps"], int(recipe["batch"])
    folder = args.out or HERE / args.kind
    torch.manual_seed(0)

    training, _ = documents()
    train_tokenizer(training, folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    stream = torch.tensor([i for ids in tokenizer(training).input_ids for i in [0, *ids]])
    model = build(args.kind).train()
    if args.kind == "mamba":
        from transformers.models.mamba import modeling_mamba

        modeling_mamba.mamba_selective_scan = _fast_scan
    print(f"{args.kind}: {sum(p.numel() for p in model.parameters()):,} parameters, {len(stream):,} tokens", flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["lr"], weight_decay=0.1, betas=(0.9, 0.95))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)) + 0.02)
    )
    started, curve = time.time(), []
    for step in range(1, steps + 1):
        start = torch.randint(len(stream) - LENGTH, (batch,))
        ids = stream[start[:, None] + torch.arange(LENGTH)]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 20 == 0 or step == steps:
            curve.append([step, round(loss.item(), 3)])
            print(f"step {step} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
        if step % 250 == 0 or step == steps:
            model.half().save_pretrained(folder)
            model.float()
    size = {"tokens": steps * batch * LENGTH, "seconds": round(time.time() - started), "torch": torch.__version__}
    facts = recipe | {"steps": steps} | size | {"loss_curve": curve}
    (folder / "training.json").write_text(json.dumps(facts) + "\n")
    print("now: python -m assay.models.builtin.card")


if __name__ == "__main__":
    main()
