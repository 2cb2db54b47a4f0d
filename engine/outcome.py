"""What an asset tells about itself, in a form that survives in a file: facts for people and checks.

`engine.outcome` turns these into Dagster's metadata and check results, on a fresh result and on a cached one.

From an outcome to what Dagster shows: metadata values and check results.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

if TYPE_CHECKING:  # readers of finished results show nothing in Dagster
    import dagster as dg

FactKind = Literal["number", "text", "markdown", "table", "file", "image", "url"]


@dataclass(frozen=True)
class Fact:
    """One line of an asset's page. A file or image is a path relative to the asset's folder."""

    kind: FactKind
    value: Any

    @classmethod
    def table(cls, frame: pd.DataFrame, digits: int = 4) -> "Fact":
        """Keep a small table, numbers rounded to `digits`."""
        rows = frame.round(digits).astype(object).where(frame.notna(), None)
        records = rows.to_dict(orient="records")
        return cls("table", [{str(k): _plain(v) for k, v in row.items()} for row in records])


@dataclass(frozen=True)
class Check:
    """One asset check: whether it passed, the figures, and whether it guards what comes after."""

    name: str
    passed: bool
    figures: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Outcome:
    """Everything an asset reports.

    Attributes:
        facts: For people, by name.
        checks: Whether it is as it should be.
        run_id: Its run in MLflow, empty where there is none yet.
        behind: Data versions of all it was made of, up to the studies, by place in the workspace.
    """

    facts: dict[str, Fact]
    checks: tuple[Check, ...] = ()
    run_id: str = ""
    behind: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return {
            "facts": {name: asdict(fact) for name, fact in self.facts.items()},
            "checks": [
                {**asdict(check), "passed": bool(check.passed), "figures": _plain_all(check.figures)}
                for check in self.checks
            ],
            "run_id": self.run_id,
            "behind": dict(self.behind),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Outcome":
        """The inverse of `to_json`."""
        facts = {name: Fact(**fact) for name, fact in content["facts"].items()}
        checks = tuple(Check(**check) for check in content["checks"])
        return cls(facts, checks, content.get("run_id", ""), dict(content.get("behind", {})))


def number(value: float) -> Fact:
    """Keep a number; Dagster plots it over time."""
    return Fact("number", _plain(value))


def text(value: str) -> Fact:
    """Keep a line of text."""
    return Fact("text", value)


def image(path: Path, folder: Path) -> Fact:
    """Keep a PNG of the asset's folder, shown inline."""
    return Fact("image", str(path.relative_to(folder)))


def _plain_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain_all(part) for key, part in value.items()}
    return [_plain_all(part) for part in value] if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def metadata_of(outcome: Outcome, folder: Path, run_url: Callable[[str], str]) -> "dict[str, dg.MetadataValue[Any]]":
    """Return Dagster metadata for every fact; images are shown inline.

    Args:
        outcome: Of the asset.
        folder: Of the asset.
        run_url: Gives the address of a run in MLflow.
    """
    import dagster as dg

    shown = {name: _metadata_value(fact, folder) for name, fact in outcome.facts.items()}
    return shown | ({"mlflow_run": dg.MetadataValue.url(run_url(outcome.run_id))} if outcome.run_id else {})


def check_results_of(outcome: Outcome) -> "list[dg.AssetCheckResult]":
    """Return one Dagster check result for every check."""
    return [_check_result(check) for check in outcome.checks]


def _metadata_value(fact: Fact, folder: Path) -> "dg.MetadataValue[Any]":
    import dagster as dg

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


def _check_result(check: Check) -> "dg.AssetCheckResult":
    import dagster as dg

    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.WARN if check.warning else dg.AssetCheckSeverity.ERROR,
        description=check.description,
        metadata={name: _figure(value) for name, value in check.figures.items()},
    )


def _figure(value: Any) -> "dg.MetadataValue[Any]":
    import dagster as dg

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
