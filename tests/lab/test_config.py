"""Every field of a config can be set as text, and a mistake is one line that says what was expected."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from assay import InputError
from assay.lab import StudyConfig
from assay.lab.config import describe, with_settings

FIELDS = "width, rate, mixer, sizes, names, fast, limit"


class Config(StudyConfig):
    width: Annotated[int, Field(ge=1)] = 8
    rate: float = Field(default=0.5, gt=0, le=1)
    mixer: Literal["gla", "la"] = "la"
    sizes: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 2])
    names: list[str] = Field(default=["a"])
    fast: bool = False
    limit: int | None = None

    @model_validator(mode="after")
    def _narrow(self) -> Config:
        if self.width == 13:
            raise ValueError("no")
        return self


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("width=16", "width", 16),
        ("rate=1e-3", "rate", 1e-3),
        ("mixer=gla", "mixer", "gla"),
        ("sizes=4,8", "sizes", [4, 8]),
        ("sizes=[4, 8]", "sizes", [4, 8]),
        ("sizes=4", "sizes", [4]),
        ("sizes=", "sizes", []),
        ("names=a b,c=d", "names", ["a b", "c=d"]),
        ("fast=true", "fast", True),
        ("limit=3", "limit", 3),
        ("limit=null", "limit", None),
        ("seeds=7", "seeds", 7),
    ],
)
def test_a_field_is_set_by_text(setting: str, name: str, value: object) -> None:
    found = with_settings(Config(), [setting])

    assert getattr(found, name) == value
    assert found.model_dump(exclude={name}) == Config().model_dump(exclude={name})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("width=x", "width=x: expected whole number (at least 1), such as width=8"),
        ("width=0", "width=0: expected whole number (at least 1), such as width=8"),
        ("width=1.5", "width=1.5: expected whole number (at least 1), such as width=8"),
        ("rate=0", "rate=0: expected number (above 0, at most 1), such as rate=0.5"),
        ("rate=inf", "rate=inf: expected number (above 0, at most 1), such as rate=0.5"),
        ("mixer=sa", "mixer=sa: expected one of gla, la, such as mixer=la"),
        ("sizes=1,x", "sizes=1,x: expected list, each whole number (at least 1), such as sizes=1,2"),
        ("fast=perhaps", "fast=perhaps: expected true or false, such as fast=false"),
        ("limit=x", "limit=x: expected whole number or null, such as limit=null"),
        ("widht=4", "widht=4: no such field (did you mean 'width'?); the fields are seeds, " + FIELDS),
        ("seeds=0", "seeds=0: expected whole number (at least 1, at most 10000), such as seeds=5"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(setting: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        with_settings(Config(), [setting])

    assert str(caught.value) == words


def test_fields_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        with_settings(Config(), ["width=13"])
    assert str(caught.value) == "width=13: no"


def test_fields_that_go_together_are_set_together() -> None:
    class Ordered(StudyConfig):
        low: int = 1
        high: int = 2

        @model_validator(mode="after")
        def _ordered(self) -> Ordered:
            if self.low > self.high:
                raise ValueError(f"low is {self.low}; expected at most high, {self.high}")
            return self

    assert with_settings(Ordered(), ["low=5", "high=6"]).low == 5
    with pytest.raises(InputError) as caught:
        with_settings(Ordered(), ["low=5", "seeds=6"])
    assert str(caught.value) == "low=5 seeds=6: low is 5; expected at most high, 2"


def test_lists_in_lists_and_texts_with_commas_are_json() -> None:
    class Nested(StudyConfig):
        pairs: tuple[tuple[int, int], ...] = ((2, 24), (24, 2))
        names: list[Literal["a, b", "c"]] = Field(default=["a, b", "c"])

    found = with_settings(Nested(), ["pairs=[[1, 2]]", 'names=["a, b"]'])
    assert (found.pairs, found.names) == (((1, 2),), ["a, b"])
    for name in ("pairs", "names"):  # what the hint says can be typed
        with pytest.raises(InputError) as caught:
            with_settings(Nested(), [f"{name}=x"])
        hint = str(caught.value).partition("such as ")[2]
        found = with_settings(Nested(pairs=((3, 4),), names=["c"]), [hint])
        assert getattr(found, name) == getattr(Nested(), name)


def test_a_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="extra"):
        Config(widht=3)  # type: ignore[call-arg]


def test_fields_are_described() -> None:
    assert describe(Config.model_fields["names"]) == "list, each text"
