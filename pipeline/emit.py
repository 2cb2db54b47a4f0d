"""From an outcome to what Dagster shows: metadata values and check results."""

import base64
from pathlib import Path
from typing import Any

import dagster as dg

from pipeline.outcome import Check, Fact, Outcome


def metadata_of(outcome: Outcome, folder: Path) -> dict[str, dg.MetadataValue[Any]]:
    """Return Dagster metadata for every fact; images are shown inline."""
    return {name: _metadata_value(fact, folder) for name, fact in outcome.facts.items()}


def check_results_of(outcome: Outcome) -> list[dg.AssetCheckResult]:
    """Return one Dagster check result for every check."""
    return [_check_result(check) for check in outcome.checks]


def _metadata_value(fact: Fact, folder: Path) -> dg.MetadataValue[Any]:
    value = fact.value
    match fact.kind:
        case "number":
            if value is None:
                return dg.MetadataValue.null()
            return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)
        case "table":
            return dg.MetadataValue.table([dg.TableRecord(row) for row in value])
        case "image":
            picture = base64.b64encode((folder / value).read_bytes()).decode()
            return dg.MetadataValue.md(f"![{Path(value).stem}](data:image/png;base64,{picture})")
        case "file":
            return dg.MetadataValue.path(str(folder / value))
        case "markdown":
            return dg.MetadataValue.md(value)
        case "url":
            return dg.MetadataValue.url(value)
        case _:
            return dg.MetadataValue.text(str(value))


def _check_result(check: Check) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.WARN if check.warning else dg.AssetCheckSeverity.ERROR,
        description=check.description,
        metadata={name: _figure(value) for name, value in check.figures.items()},
    )


def _figure(value: Any) -> dg.MetadataValue[Any]:
    if isinstance(value, list):
        return (
            dg.MetadataValue.table([dg.TableRecord(row) for row in value]) if value else dg.MetadataValue.text("none")
        )
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    return dg.MetadataValue.text(str(value))
