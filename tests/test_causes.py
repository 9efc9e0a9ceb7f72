"""The taxonomy is complete and consistent."""

from programs import ROOT

from wellfed.analysis.causes import CAUSES, FAMILIES, UNALLOCATED, family_of

TAXONOMY = [
    "storage.read",
    "storage.remote",
    "storage.metadata",
    "storage.object",
    "cpu.preprocess",
    "cpu.quota",
    "memory.pressure",
    "pcie.copy",
    "pcie.degraded",
    "fabric.collective",
    "fabric.link",
    "fabric.congested",
    "straggler",
    "checkpoint",
    "host.launch",
    "throttle.thermal",
    "throttle.power",
    "hardware.fault",
    "idle.held",
    "idle.startup",
    "idle.gap",
    "phase.evaluation",
    "serve.no_traffic",
    "serve.low_load",
    "serve.kv_full",
    "unknown",
    "insufficient",
]


def test_every_cause_of_the_contract_exists_once() -> None:
    assert sorted(CAUSES) == sorted(TAXONOMY)
    assert UNALLOCATED not in CAUSES


def test_every_cause_has_a_known_family_next_steps_and_its_own_runbook() -> None:
    for cause in CAUSES.values():
        assert family_of(cause.id) in FAMILIES
        assert cause.next_steps
        assert cause.meaning.endswith(".")
    assert len({c.runbook for c in CAUSES.values()}) == len(CAUSES)
    for cause in CAUSES.values():
        page, anchor = cause.runbook.split("#")
        assert f'<a id="{anchor}"></a>' in (ROOT / page).read_text("utf-8")


def test_every_family_has_a_cause_and_its_own_code() -> None:
    assert {c.family for c in CAUSES.values()} == set(FAMILIES)
    assert len({f.code for f in FAMILIES.values()}) == len(FAMILIES)


def test_next_steps_use_only_the_placeholders_findings_fill() -> None:
    scope = {"job": "j", "host": "h", "gpu": "g", "resource": "r"}
    for cause in CAUSES.values():
        for step in cause.next_steps:
            assert "{" not in step.format(**scope)
