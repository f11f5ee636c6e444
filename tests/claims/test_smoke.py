"""Every study runs at its smallest scale, and its claims come out as they did when they were written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from expected import EXPECTED

import assay.studies
from assay.lab import find_study, known_studies, run_study
from assay.lab.resources import PROCESS

FAMILIES = Path(assay.studies.__file__).parent
BUILT_IN = [source.slug for source in known_studies() if (FAMILIES / source.family.replace("-", "_")).is_dir()]


def test_every_built_in_study_is_expected_here() -> None:
    assert set(BUILT_IN) == set(EXPECTED)


@pytest.mark.parametrize("slug", BUILT_IN)
def test_smoke(slug: str, tmp_path: Path) -> None:
    study = find_study(slug)
    run = run_study(study, study.config("smoke"), scale="smoke", root=tmp_path)

    assert run.failures == []
    assert {result.claim: result.verdict for result in run.results} == EXPECTED[slug]
    record = json.loads((run.folder / "run.json").read_text())
    assert record["figures"]
    for figure in record["figures"]:
        assert all(mark["data"] for mark in figure["marks"])
    assert run_study(study, study.config("smoke"), scale="smoke", root=tmp_path).ran == 0


@pytest.mark.parametrize("slug", BUILT_IN)
def test_a_study_is_complete(slug: str) -> None:
    study = find_study(slug)

    assert set(study.scales) == set(study.seconds) == {"smoke", "laptop", "paper"}
    assert all(config.seeds >= 5 for config in study.scales.values())
    assert len({claim.slug for claim in study.claims}) == len(study.claims)
    for claim in study.claims:
        assert claim.checks, claim.slug
        assert claim.controls, claim.slug  # a criterion that nothing fails says nothing
        assert claim.source, claim.slug
    for field in study.Config.model_fields.values():
        assert field.description
    units = [study.seeded_units(config) for config in study.scales.values()]
    laptop, paper = (max(unit.resources.memory for unit in scale) - PROCESS for scale in units[1:])
    assert paper > 2 * laptop > 0  # a scale that does not fit is refused before it starts
    assert {unit.name for unit in units[0]} <= {unit.name for unit in units[1]} | {unit.name for unit in units[2]}
