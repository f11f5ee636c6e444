"""The settings of a study: typed, checked, and settable from the command line as `key=value`."""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from assay._errors import InputError, nearest

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
_LIMITS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
_LENGTHS = {"min_length": "{} or more of them", "max_length": "no more than {} of them"}


class StudyConfig(BaseModel):
    """What may be varied in a study; a subclass adds fields with types, limits (`Field(ge=1)`) and defaults.

    A field that is a list is an axis of the grid. Unknown fields are refused. Frozen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    seeds: int = Field(default=5, ge=1, le=10_000, description="units are run with the seeds 0 to seeds - 1")


ConfigT = TypeVar("ConfigT", bound=StudyConfig)


def with_settings(config: ConfigT, settings: Sequence[str]) -> ConfigT:
    """`config` with some fields replaced, each given as `key=value`; the elements of a list are separated by commas, or
    it is JSON: lists in lists, and texts with commas.

    Raises `InputError` that names the field, what was given, the expected type, and the allowed values; and where
    fields do not go together, with what the config says of that.

    >>> with_settings(StudyConfig(), ["seeds=3"])
    StudyConfig(seeds=3)
    """
    fields = type(config).model_fields
    given: dict[str, Any] = {}
    for setting in settings:
        name, _, words = setting.partition("=")
        if name not in fields:
            raise InputError(f"{setting}: no such field{nearest(name, fields)}; the fields are {', '.join(fields)}")
        field = fields[name]
        alone: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation(), config=ConfigDict(allow_inf_nan=False))
        try:
            given[name] = alone.validate_python(_parse(words, field))
        except ValidationError:
            now = written(getattr(config, name))
            raise InputError(f"{setting}: expected {describe(field)}, such as {name}={now}") from None
    try:
        return type(config).model_validate(config.model_dump() | given)
    except ValidationError as error:
        words = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise InputError(f"{' '.join(settings)}: {words}") from None


def describe(field: FieldInfo) -> str:
    """The type and limits of a field in words.

    >>> describe(StudyConfig.model_fields["seeds"])
    'whole number (at least 1, at most 10000)'
    """
    limits = [
        words.format(getattr(constraint, name))
        for constraint in field.metadata
        for name, words in (_LIMITS | _LENGTHS).items()
        if getattr(constraint, name, None) is not None
    ]
    return _type_in_words(field.annotation) + (f" ({', '.join(limits)})" if limits else "")


def _parse(words: str, field: FieldInfo) -> Any:
    """The text of a value as what pydantic then checks: it turns '3' into 3 where a number is expected."""
    if get_origin(field.annotation) not in (list, tuple):
        return None if words == "null" and type(None) in get_args(field.annotation) else words
    if words.startswith(("[[", '["')):
        with contextlib.suppress(ValueError):
            return json.loads(words)
    inner = words.strip().removeprefix("[").removesuffix("]")
    return [part.strip().strip("\"'") for part in inner.split(",")] if inner else []


def written(value: Any) -> str:
    """As it can be typed behind `key=`.

    >>> written([1, 2.5]), written(["a, b", "c"]), written([[0, 1], []]), written(None)
    ('1,2.5', '["a, b","c"]', '[[0,1],[]]', 'null')
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, list | tuple) and (any("," in str(one) for one in value) or not value):
        return text
    return text.strip('[]"').replace('","', ",")


def _type_in_words(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if kind in _NAMES:
        return _NAMES[kind]
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    if origin in (Union, types.UnionType):
        return " or ".join(_type_in_words(one) for one in inside)
    if origin in (list, tuple):
        return f"list, each {_type_in_words(inside[0])}" if inside else "list"
    if hasattr(kind, "__metadata__"):  # Annotated[int, Field(ge=1)]
        return describe(FieldInfo.from_annotation(kind))
    return getattr(kind, "__name__", str(kind))
