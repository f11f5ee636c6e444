"""Stored runs made up for the tests of the gallery: every verdict, every odd number, and texts that mean harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[31m\ud800\u2028"


def check(values: list[float | None], relation: str, threshold: float, verdict: str, **changes: Any) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if len(known) == len(values) else None
    spread = (max(known) - min(known)) / 4 if mean is not None else 0.0
    return {
        "words": "rank correlation of state and accuracy",
        "relation": relation,
        "threshold": threshold,
        "every_seed": False,
        "verdict": verdict,
        "mean": mean,
        "low": None if mean is None else mean - spread,
        "high": None if mean is None else mean + spread,
        "values": {str(seed): value for seed, value in enumerate(values)},
    } | changes


HOLDS = check([0.93, 0.95, 0.97, 0.94, 0.96], ">=", 0.9, "holds")
FAILS = check([0.41, 0.55, 0.47, 0.52, 0.44], ">=", 0.9, "fails")
UNSURE = check([0.82, 0.97, 0.93, 0.85, 0.96], ">=", 0.9, "inconclusive")
TINY = check([2e-15, 3e-15, 1e-15, 4e-15, 2e-15], "<=", 1e-10, "holds", every_seed=True, words="relative error")
NOTHING = check([0.0] * 5, "<=", 0, "holds", words="largest distance")
UNDEFINED = check([None] * 5, ">=", 0.9, "fails", words="rank correlation with a constant")
PARTLY = check([0.5, None, 0.7], ">=", 0.9, "fails", words="rank correlation, sometimes with a constant")


def claim(slug: str, verdict: str, checks: list[dict[str, Any]], controls: list[dict[str, Any]]) -> dict[str, Any]:
    reasons = {
        "holds": "all checks hold, and no control does",
        "fails": "rank correlation of state and accuracy",
        "inconclusive": "the interval covers the threshold: rank correlation of state and accuracy",
        "void": "the control holds: rank correlation of state and accuracy",
    }
    return {
        "claim": slug,
        "text": f"The more state a mixer has, the better it recalls, and this is claim {slug}.",
        "source": "Fig. 2",
        "verdict": verdict,
        "reason": reasons[verdict],
        "checks": checks,
        "controls": controls,
    }


CLAIMS = [
    claim("recall", "holds", [HOLDS, TINY], [FAILS]),
    claim("growth", "fails", [FAILS, HOLDS], [UNDEFINED]),
    claim("training", "inconclusive", [UNSURE], [FAILS]),
    claim("layers", "void", [HOLDS], [HOLDS]),
    claim("not-measured", "inconclusive", [], []),
    claim("constants", "fails", [NOTHING, PARTLY, UNDEFINED], [FAILS]),
]


def figures(title: str = "Recall and state") -> list[dict[str, Any]]:
    lines = [
        {"state": 2**k, "accuracy": 1 - 0.6 ** (k * rate), "mixer": mixer}
        for mixer, rate in (("attention", 1.6), ("GLA", 0.7), ("Mamba", 0.9), ("Hyena", 0.4))
        for k in range(2, 8)
    ]
    dots = [{"ess": k * 0.37, "loss": 3 / (1 + k), "pairs": k} for k in range(1, 40)]
    bars = [{"layer": f"layer {k}", "share": 0.1 * k} for k in range(1, 6)]
    axes = {"x": {"type": "log", "label": "state, floats"}, "y": {"label": "accuracy"}, "color": {"legend": True}}
    marked = {"x": "state", "y": "accuracy", "stroke": "mixer", "marker": True}
    return [
        {"title": title, "marks": [{"mark": "line", "data": lines, "options": marked}], "options": axes},
        {
            "title": "Loss by the state used",
            "marks": [
                {"mark": "ruleY", "data": [0.5], "options": {"strokeDasharray": "4 3"}},
                {"mark": "dot", "data": dots, "options": {"x": "ess", "y": "loss", "stroke": "pairs"}},
            ],
            "options": {"x": {"label": "ESS"}, "y": {"label": "loss, nats"}, "color": {"label": "pairs"}},
        },
        {
            "title": "State by layer",
            "marks": [{"mark": "barY", "data": bars, "options": {"x": "layer", "y": "share", "fill": "layer"}}],
            "options": {"y": {"label": "share of the state"}},
        },
    ]


def odd_figures() -> list[dict[str, Any]]:
    """What a study may well ask for: facets, bands, missing values, little data, colours of its own, many series."""
    rows = [
        {"step": step, "loss": None if step == 3 else (1 + seed) / step, "seed": seed, "size": size, "low": 0.5 / step}
        for step in range(1, 9)
        for seed in range(2)
        for size in (16, 64)
    ]
    many = [{"x": k % 7, "y": k, "kind": f"series {k % 12} of a long name"} for k in range(84)]
    one = [{"x": 1, "y": 1e-15, "kind": "only"}]

    def mark(kind: str, data: Any, **options: Any) -> dict[str, Any]:
        return {"mark": kind, "data": data, "options": options}

    return [
        {
            "title": "Facets",
            "marks": [mark("line", rows, x="step", y="loss", stroke="seed", fx="size", z="seed", marker=True)],
            "options": {"y": {"type": "log"}, "fx": {"label": "size"}},
        },
        {
            "title": "A band with a curve of its own colour",
            "marks": [
                mark("areaY", rows[::4], x="step", y1="low", y2="loss", fill="#1f5fa8", fillOpacity=0.2),
                mark("line", rows[::4], x="step", y="loss", stroke="red"),
                mark("ruleX", [{"at": 4, "what": "here"}], x="at"),
                mark("text", [{"at": 4, "what": "here"}], x="at", text="what", frameAnchor="top"),
            ],
            "options": {"x": {"type": "log", "label": "steps"}},
        },
        {"title": "Many series", "marks": [mark("line", many, x="x", y="y", stroke="kind")], "options": {}},
        {
            "title": "One value",
            "marks": [mark("dot", one, x="x", y="y", stroke="kind")],
            "options": {"y": {"type": "log"}},
        },
        {
            "title": "Nothing",
            "marks": [mark("dot", [], x="x", y="y", stroke="kind")],
            "options": {"x": {"type": "log"}},
        },
        {
            "title": "Cells",
            "marks": [mark("cell", many, x="x", y="kind", fill="y", inset=0.5)],
            "options": {"color": {"scheme": "ylgnbu", "legend": True, "label": "size"}},
        },
        {
            "title": "Long names",
            "marks": [mark("barY", many[:12], x="kind", y="y", fill="#1f5fa8")],
            "options": {},
        },
        {
            "title": "Numbers on a scale of their own",
            "marks": [mark("dot", rows, x="step", y="loss", stroke="size")],
            "options": {"color": {"type": "log", "legend": True, "label": "size, floats"}, "y": {"domain": [0, 3]}},
        },
        {
            "title": "Intervals",
            "marks": [
                mark("ruleY", rows[:8], y="step", x1="low", x2="loss", stroke="size", strokeWidth=2),
                mark("dot", rows[:8], y="step", x="loss", fill="size"),
            ],
            "options": {"x": {"label": "loss, nats"}},
        },
    ]


def about(title: str = "State decides recall", **changes: Any) -> dict[str, Any]:
    paper = {"title": title, "authors": "A. Newcomer, B. Oldhand", "year": 2025, "arxiv": "2504.19561", "venue": "ICML"}
    return {
        "paper": paper | changes,
        "idea": "How much of its memory a model uses.",
        "experiments": {"recall": "A mixer trained on pairs."},
        "settings": {"states": "state sizes of the mixer", "seeds": "units are run with the seeds 0 to seeds - 1"},
        "scales": {"laptop": {"seeds": 5, "states": [4, 8], "rate": 0.001}},
    }


def write_run(root: Path, slug: str, *, name: str = "laptop-1f2e3d4c", rows: int = 12, **changes: Any) -> Path:
    """A run under `root`; `changes` replace parts of its record. Returns its folder."""
    record = {
        "study": slug,
        "scale": name.partition("-")[0],
        "created": "2026-01-02T03:04:05.678+00:00",
        "config": {"seeds": 5, "states": [4, 8], "rate": 0.001},
        "units": 40,
        "failed": 0,
        "rows": rows,
        "unit_seconds": 754.2,
        "device": "cpu",
        "code": {"memory": "17fc70c0b1d699778fcdab1bafcfef0d"},
        "versions": {"assay": "0.1.0", "torch": "2.13.0", "python": "3.12.1"},
        "commit": "6b0d1a534d0343799b8e2691c937b6d98367aa3e",
        "machine": {"processor": "A processor", "cores": 2, "memory_gib": 16, "system": "Linux"},
        "claims": CLAIMS,
        "figures": figures(),
        "about": about(),
    } | changes
    table = [{"experiment": ("memory", "theory")[k % 2], "seed": k, "ess": 1 / (1 + k)} for k in range(rows)]
    table = [row | ({"bound": 0.1 * row["seed"]} if row["experiment"] == "theory" else {}) for row in table]
    folder = root / slug / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    return folder


def hostile_run(root: Path) -> Path:
    """Every text of the record is an attack, or has what a terminal and a page must not show as it is."""
    evil = [
        one | dict.fromkeys(("text", "source", "reason"), HOSTILE) | {"checks": [FAILS | {"words": HOSTILE}]}
        for one in CLAIMS
    ]
    bad = figures(HOSTILE)
    bad[0]["options"]["x"] = {"label": HOSTILE}
    bad[1]["marks"].append({"mark": "__proto__", "data": [], "options": {}})
    bad[2]["marks"][0]["data"][0]["layer"] = HOSTILE
    told = about(HOSTILE, authors=HOSTILE, venue=HOSTILE, arxiv=HOSTILE) | {"idea": HOSTILE, "settings": {"a": HOSTILE}}
    return write_run(
        root,
        "hostile",
        claims=evil,
        figures=bad,
        about=told,
        config={HOSTILE: HOSTILE, "a": 1},
        commit=HOSTILE,
        machine={"processor": HOSTILE},
        versions={HOSTILE: HOSTILE},
        device=HOSTILE,
    )
