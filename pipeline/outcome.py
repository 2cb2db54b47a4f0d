"""What an asset tells about itself, in a form that survives in a file: facts for people and checks.

`pipeline.emit` turns these into Dagster's metadata and check results, on a fresh result and on a cached one.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

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
    """Everything an asset reports."""

    facts: dict[str, Fact]
    checks: tuple[Check, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return {
            "facts": {name: asdict(fact) for name, fact in self.facts.items()},
            "checks": [
                {**asdict(check), "passed": bool(check.passed), "figures": _plain_all(check.figures)}
                for check in self.checks
            ],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Outcome":
        """The inverse of `to_json`."""
        facts = {name: Fact(**fact) for name, fact in content["facts"].items()}
        return cls(facts, tuple(Check(**check) for check in content["checks"]))


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
