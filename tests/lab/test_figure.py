"""A figure is plain JSON in the vocabulary of Observable Plot."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from assay.lab import mark, plot


def test_a_mark_keeps_the_columns_it_names_as_plain_values() -> None:
    table = pd.DataFrame({"x": np.arange(2), "y": [0.5, np.nan], "kind": ["a", "b"], "other": [1, 2]})
    figure = plot("t", mark("dot", table, x="x", y="y", stroke="kind"), mark("ruleY", [0, np.nan]), x={"label": "X"})

    assert json.loads(json.dumps(figure, allow_nan=False)) == {
        "title": "t",
        "marks": [
            {
                "mark": "dot",
                "data": [{"x": 0, "y": 0.5, "kind": "a"}, {"x": 1, "y": None, "kind": "b"}],
                "options": {"x": "x", "y": "y", "stroke": "kind"},
            },
            {"mark": "ruleY", "data": [0, None], "options": {}},
        ],
        "options": {"x": {"label": "X"}},
    }
