"""Sizes that must be at least 1, and widths that must divide into heads."""

from __future__ import annotations

from assay._errors import InputError


def head_size(width: int, num_heads: int, *, of: str = "d_model", even: bool = False) -> int:
    """`width / num_heads`. Raises `InputError` where it is no positive whole number, or not even where it must be."""
    if num_heads < 1:
        raise InputError(f"num_heads is {num_heads}; expected at least 1")
    if width < 1 or width % num_heads:
        raise InputError(f"{of} is {width}; expected a positive multiple of num_heads = {num_heads}")
    if even and width // num_heads % 2:
        raise InputError(
            f"{of} is {width}; expected an even number for each of num_heads = {num_heads}, as rotations need pairs"
        )
    return width // num_heads


def check_sizes(**sizes: int) -> None:
    """Raise `InputError` naming the one that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} is {size}; expected at least 1")
