"""Reading texts; tokens, bytes, delimiters and windows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SENTENCES, TEXT, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import _errors
from assay.models._spans import _search
from assay.models.text import TokenisedText, check_vocabulary, clean_text, read_text, tokenise

PAD = " the clock" * 20


def cut(text: str, tokenizer: Any, **options: Any) -> TokenisedText:
    return tokenise(text, tokenizer, **{"max_tokens": 4096, **options})


def test_reads_a_file_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "Grüße\n".encode())

    assert read_text(path) == ("Grüße\n", str(path))


def test_reads_the_builtin_text() -> None:
    text, name = read_text("builtin:text")

    assert name == "builtin:text"
    assert len(text) > 500


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped"), encoding="ascii"))

    assert read_text("-") == ("piped", "standard input")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t \n", "is empty"),
        (b"PNG\0\1\2", "binary or UTF-16"),
        ("words".encode("utf-16"), "binary or"),
        (b"caf\xe9 au lait", r"not UTF-8 \(byte 3\)"),
    ],
)
def test_unusable_files_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)

    with pytest.raises(_errors.InputError, match=message):
        read_text(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").write_text("x")

    with pytest.raises(_errors.InputError, match=r"did you mean 'chapter.txt'"):
        read_text(tmp_path / "chaptr.txt")
    with pytest.raises(_errors.InputError, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(_errors.InputError, match="no built-in text"):
        read_text("builtin:txt")


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    assert clean_text("a\ud800b\udfffc") == "a\ufffdb\ufffdc"
    assert clean_text("\ud83d\ude00") == "😀"


def test_empty_and_short_texts_are_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(_errors.InputError, match="empty"):
        cut(" \n", tiny_tokenizer)
    with pytest.raises(_errors.InputError, match="too short: 15 tokens"):
        cut("!" * 15, tiny_tokenizer)
    with pytest.raises(_errors.InputError, match="the model takes 8 positions"):
        cut(TEXT, tiny_tokenizer, window_length=8)
    with pytest.raises(_errors.InputError, match="--max-tokens is 4"):
        cut(TEXT, tiny_tokenizer, max_tokens=4)
    assert len(cut("!" * 16, tiny_tokenizer).ids) == 16


def test_split_characters_are_displayable_and_their_bytes_exact(tiny_tokenizer: Any) -> None:
    text = "😀é中" + PAD
    tokens = cut(text, tiny_tokenizer)

    assert tokens.num_bytes[:9].tolist() == [1] * 9
    assert tokens.pieces[:4] == [r"\xf0", r"\x9f", r"\x98", r"\x80"]
    assert tokens.num_bytes.sum() == len(text.encode())
    "".join(tokens.pieces).encode()


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=60))
def test_bytes_add_up_for_any_text(text: str, tiny_tokenizer: Any) -> None:
    tokens = cut(PAD + text + PAD, tiny_tokenizer)
    whole = clean_text(PAD + text + PAD).encode()

    assert tokens.num_bytes.sum() == len(whole)
    assert tokens.num_bytes.min() > 0
    assert len(tokens.pieces) == len(tokens.ids) == len(tokens.delimiters)
    np.testing.assert_array_equal(
        tokens.num_bytes[: len(tokens.ids)],
        [len(tiny_tokenizer.convert_ids_to_tokens(i)) for i in tokens.ids],
    )


def test_a_token_that_covers_text_only_shows_that_text(tiny_tokenizer: Any) -> None:
    assert "".join(cut(TEXT, tiny_tokenizer).pieces) == TEXT


def test_harmful_texts_keep_their_characters_for_the_report_to_escape(tiny_tokenizer: Any) -> None:
    text = "<script>alert(1)</script> \x1b[31mred\x1b[0m \ud800" + PAD
    tokens = cut(text, tiny_tokenizer)

    assert "".join(tokens.pieces[:10]).startswith("<scrip")
    assert tokens.num_bytes.sum() == len(clean_text(text).encode())


def test_delimiters(tiny_tokenizer: Any) -> None:
    text = 'One two. "Three!" four e.g.five\n\n\nSix seven<|endoftext|>eight; nine\nten' + PAD
    tokens = cut(text, tiny_tokenizer)
    ends = np.cumsum(tokens.num_bytes)
    found = {text[: ends[k]]: kind for k, kind in enumerate(tokens.delimiters) if kind}

    assert [kind for kind in tokens.delimiters if kind] == ["sentence", "sentence", "paragraph", "document"]
    assert [start.split()[-1] for start in found][:2] == ["two.", '"Three!"']
    assert list(found)[2].endswith("five\n\n\n")
    assert list(found)[3].endswith("<|endoftext|>")


def test_user_delimiters_come_first_and_respect_token_borders(tiny_tokenizer: Any) -> None:
    text = "a; b;\n\nc 😀" + PAD
    semicolons = cut(text, tiny_tokenizer, delimiters=[";"])
    everything = cut(text, tiny_tokenizer, delimiters=["\n\n", "", "absent", "clo"])

    assert semicolons.delimiters.count("user") == 2
    assert everything.delimiters.count("user") == 1
    assert "paragraph" not in everything.delimiters


def test_special_tokens_of_the_text_count_their_bytes(tiny_tokenizer: Any) -> None:
    tokens = cut("x<|endoftext|>" + PAD, tiny_tokenizer)

    assert tokens.pieces[1] == "<|endoftext|>"
    assert tokens.num_bytes[1] == 13


def test_windows_tile_the_tokens_and_a_short_last_one_is_dropped(tiny_tokenizer: Any) -> None:
    text = "!" * 100
    even = cut(text, tiny_tokenizer, window_length=50)
    odd = cut(text, tiny_tokenizer, window_length=45)
    long = cut(text, tiny_tokenizer, window_length=64, max_tokens=80)

    assert (even.windows, even.dropped_tokens, even.truncated) == ([(0, 50), (50, 100)], 0, False)
    assert (odd.windows, odd.dropped_tokens, len(odd.ids)) == ([(0, 45), (45, 90)], 10, 90)
    assert (long.windows, long.truncated, len(long.ids)) == ([(0, 64), (64, 80)], True, 80)


def test_an_opening_token_stands_in_every_window() -> None:
    tokenizer = make_tokenizer(bos_token="<|endoftext|>")
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokens = cut("!" * 100, tokenizer, window_length=50, max_tokens=90)

    assert tokens.windows == [(0, 50), (50, 90)]
    assert tokens.ids[0] == tokens.ids[50] == 0
    assert tokens.num_bytes.sum() == 88
    assert tokens.num_bytes[0] == tokens.num_bytes[50] == 0
    assert tokens.pieces[0] == "<|endoftext|>"
    assert tokens.delimiters[50] == ""


def test_a_long_text_is_only_tokenised_as_far_as_needed(tiny_tokenizer: Any) -> None:
    text = SENTENCES[0] * 3000
    tokens = cut(text, tiny_tokenizer, max_tokens=100)

    assert tokens.truncated
    assert tokens.ids == tiny_tokenizer(text[:2000])["input_ids"][:100]


def sentencepiece_like() -> Any:
    """As Llama 2 writes tokens: a mark for a space, bytes for characters it does not know."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "\u2581", "\u2581the", "\u2581c", "at", ".", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.Unigram([(word, -float(k)) for k, word in enumerate(words)], unk_id=0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_byte_fallback_counts_one_byte_for_each_token() -> None:
    tokens = cut("the cat😀." + " the cat" * 8, sentencepiece_like())

    assert tokens.pieces[:9] == ["the", " c", "at", r"\xf0", r"\x9f", r"\x98", r"\x80", ".", " the"]
    assert tokens.num_bytes[3:7].tolist() == [1, 1, 1, 1]
    assert tokens.num_bytes.sum() == len("the cat😀.".encode()) + 64


def test_skipped_spaces_belong_to_the_token_after_them() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "clo": 2, "##ck": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens = cut("the  clock é" * 6, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))

    assert tokens.pieces[:4] == ["the", "  clo", "ck", " éthe"]
    assert tokens.num_bytes[:3].tolist() == [3, 5, 2]


def test_slow_tokenizers_are_followed_through_the_text() -> None:
    assert _search("The  cat sat.", ["The", "cat", " sat", "."]) == [(0, 3), (5, 8), (9, 12), (12, 13)]
    assert _search("a😀b", ["a", "\ufffd", "b"]) == [(0, 1), (1, 1), (2, 3)]


def test_a_foreign_tokenizer_is_recognised(tiny_tokenizer: Any) -> None:
    import torch

    class Model:
        def get_input_embeddings(self) -> torch.nn.Embedding:
            return torch.nn.Embedding(20, 4)

    with pytest.raises(_errors.InputError, match="does not belong to the model"):
        check_vocabulary(cut(TEXT, tiny_tokenizer), Model())
