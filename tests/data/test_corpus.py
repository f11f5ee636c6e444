"""Texts as ids, and classes with Zipf's frequencies."""

from __future__ import annotations

import builtins
from collections import Counter

import pytest
import torch
from laws import ACCEPT, REJECT, p_of_law, uniform

from assay._errors import InputError
from assay.data import (
    python_help,
    random_windows,
    shuffle_tokens,
    split_documents,
    tokenise,
    zipf_classes,
    zipf_probabilities,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TEXTS = ["One fish, two fish.", "Two_2 fish!\n", "", "Où?"]


def test_characters_give_the_text_back() -> None:
    corpus = tokenise(TEXTS, "character")

    assert ["".join(corpus.vocabulary[i] for i in ids) for ids in corpus.documents] == TEXTS
    assert list(corpus.vocabulary) == sorted(set("".join(TEXTS)))


def test_words_are_words_and_single_marks() -> None:
    corpus = tokenise(TEXTS, "word")

    assert [[corpus.vocabulary[i] for i in ids] for ids in corpus.documents] == [
        ["One", "fish", ",", "two", "fish", "."],
        ["Two_2", "fish", "!"],
        [],
        ["Où", "?"],
    ]
    assert all(ids.dtype == torch.int64 for ids in corpus.documents)


def test_the_help_texts_are_there_and_large_enough() -> None:
    texts = python_help()
    corpus = tokenise(texts, "word")

    assert texts == python_help()
    assert sum(len(ids) for ids in corpus.documents) > 80_000
    assert sum(len(ids) > 200 for ids in corpus.documents) > 40


def test_a_python_without_help_texts_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: object) -> object:
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return real(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(InputError, match="no help texts"):
        python_help()


def test_a_split_keeps_documents_whole_and_loses_none() -> None:
    corpus = tokenise([c * 3 for c in "abcdefghij"], "character")
    train, test = split_documents(corpus, generator=seeded())

    assert (len(train.documents), len(test.documents)) == (8, 2)
    assert sorted(tuple(x.tolist()) for x in (*train.documents, *test.documents)) == [(i,) * 3 for i in range(10)]
    assert train.vocabulary == test.vocabulary == corpus.vocabulary
    held_out = [
        split_documents(corpus, fraction=0.9, generator=seeded(s))[1].documents[0][0].item() for s in range(2000)
    ]
    assert p_of_law(held_out, uniform(range(10))) > ACCEPT
    two = tokenise(["a", "b"], "character")
    assert [len(part.documents) for part in split_documents(two, fraction=0.99, generator=seeded())] == [1, 1]


def test_shuffling_keeps_the_counts_of_a_document_and_nothing_else() -> None:
    corpus = tokenise(["ab" * 500, "cd" * 10], "character")
    mixed = shuffle_tokens(corpus, generator=seeded())

    def after_a(ids: torch.Tensor) -> list[int]:
        return ids[1:][ids[:-1] == 0].tolist()

    assert [Counter(x.tolist()) for x in mixed.documents] == [Counter(x.tolist()) for x in corpus.documents]
    assert p_of_law(after_a(mixed.documents[0]), uniform((0, 1))) > ACCEPT
    assert p_of_law(after_a(corpus.documents[0]), uniform((0, 1))) < REJECT  # control


def test_windows_are_from_everywhere_and_ask_for_the_next_token() -> None:
    batch = random_windows(torch.arange(50, 61), 20_000, seq_len=4, generator=seeded())

    assert batch.inputs.shape == batch.targets.shape == (20_000, 4)
    assert (batch.inputs == batch.inputs[:, :1] + torch.arange(4)).all()
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert p_of_law(batch.inputs[:, 0].tolist(), uniform(range(50, 57))) > ACCEPT
    assert random_windows(torch.arange(5), 1, seq_len=4, generator=seeded()).targets.tolist() == [[1, 2, 3, 4]]


def test_classes_have_zipf_frequencies() -> None:
    weights = [c**-1.2 for c in range(1, 97)]
    law = {c: w / sum(weights) for c, w in enumerate(weights)}
    drawn = zipf_classes(100_000, generator=seeded()).tolist()

    assert zipf_probabilities(96).tolist() == pytest.approx(list(law.values()), rel=1e-12)
    assert p_of_law(drawn, law) > ACCEPT
    assert p_of_law(zipf_classes(100_000, exponent=1.1, generator=seeded()).tolist(), law) < REJECT  # control


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: tokenise("text", "word"), "texts is 'text'; expected a sequence"),
        (lambda _: tokenise([], "word"), r"texts is \[\]; expected a sequence of at least one text"),
        (lambda _: tokenise(["a"], "byte"), "unit is 'byte'; expected 'character' or 'word'"),
        (lambda g: split_documents(tokenise(["a"], "word"), generator=g), "fraction is 0.8 of 1 documents; expected"),
        (
            lambda g: split_documents(tokenise(["a", "b"], "word"), fraction=1.0, generator=g),
            "fraction is 1.0 of 2 documents; expected between 0 and 1",
        ),
        (
            lambda g: random_windows(torch.arange(4), 1, seq_len=4, generator=g),
            r"ids has shape \(4,\); expected \(N,\) with N at least seq_len \+ 1, 5",
        ),
        (lambda g: random_windows(torch.ones(2, 9).long(), 1, seq_len=4, generator=g), r"ids has shape \(2, 9\)"),
        (lambda g: zipf_classes(1, num_classes=0, generator=g), "num_classes is 0; expected a whole number"),
        (lambda g: zipf_classes(1, exponent=float("inf"), generator=g), "exponent is inf; expected a finite number"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(seeded())  # type: ignore[operator]
