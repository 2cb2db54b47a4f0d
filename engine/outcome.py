"""What an asset tells about itself, facts for people and checks, in a form that survives in a file.

The same facts and checks become Dagster's metadata and check results, on a fresh result and on a cached one.
"""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from engine.links import Links

if TYPE_CHECKING:  # readers of finished results show nothing in Dagster
    import dagster as dg

FactKind = Literal["number", "text", "markdown", "table", "file", "image", "mlflow", "url"]
_WIDTH_PX = 320  # what a window of 1440 pixels leaves beside long names
_LEADING = 3  # figures behind the picture, before all else
_PLACES: tuple[FactKind, ...] = ("file", "mlflow", "url", "image", "number", "text", "markdown", "table")


@dataclass(frozen=True)
class Fact:
    """One line of an asset's page.

    A file or image is a path relative to the asset's folder, a page of MLflow what its interface names it behind `#/`.
    """

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
        leading: The facts that a page begins with; unless given, the first picture and the first three figures.
    """

    facts: dict[str, Fact]
    checks: tuple[Check, ...] = ()
    run_id: str = ""
    behind: Mapping[str, str] = field(default_factory=dict)
    leading: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.leading:
            object.__setattr__(self, "leading", (*self._of("image")[:1], *self._of("number")[:_LEADING]))

    def _of(self, kind: FactKind) -> list[str]:
        return [name for name, fact in self.facts.items() if fact.kind == kind]

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
            "leading": list(self.leading),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Outcome":
        """The inverse of `to_json`."""
        facts = {name: Fact(**fact) for name, fact in content["facts"].items()}
        checks = tuple(Check(**check) for check in content["checks"])
        leading = tuple(content.get("leading", ()))
        return cls(facts, checks, content.get("run_id", ""), dict(content.get("behind", {})), leading)


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


def metadata_of(outcome: Outcome, folder: Path, links: Links) -> "dict[str, dg.MetadataValue[Any]]":
    """Return Dagster metadata for every fact, in the order in which the asset's page shows it.

    What leads comes first, a picture and three figures; then what can be opened, the other figures, and long tables.

    Args:
        outcome: Of the asset.
        folder: Of the asset.
        links: Where pages, pictures and MLflow are found.
    """
    run = {"mlflow_run": Fact("url", links.to_run(outcome.run_id))} if outcome.run_id else {}
    facts = {**outcome.facts, **run}
    behind = sorted(facts.keys() - set(outcome.leading), key=lambda name: (_PLACES.index(facts[name].kind), name))
    return {name: _metadata_value(facts[name], folder, links) for name in [*outcome.leading, *behind]}


def check_results_of(outcome: Outcome) -> "list[dg.AssetCheckResult]":
    """Return one Dagster check result for every check."""
    return [_check_result(check) for check in outcome.checks]


def _rounded(value: float) -> float:
    """Return a figure with three digits that count below one, with two decimals above."""
    return value if isinstance(value, int) else float(f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}")


def _metadata_value(fact: Fact, folder: Path, links: Links) -> "dg.MetadataValue[Any]":
    import dagster as dg

    value = fact.value
    match fact.kind:
        case "number":
            if value is None:
                return dg.MetadataValue.null()
            return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(_rounded(value))
        case "table":
            return dg.MetadataValue.table([dg.TableRecord(row) for row in value])
        case "image":
            return dg.MetadataValue.md(_picture(folder / value, links))
        case "file":
            link = links.to_file(folder / value)
            return dg.MetadataValue.url(link) if link else dg.MetadataValue.path(str(folder / value))
        case "mlflow":
            return dg.MetadataValue.url(links.to_mlflow(value))
        case "markdown":
            return dg.MetadataValue.md(value)
        case "url":
            return dg.MetadataValue.url(value)
        case _:
            return dg.MetadataValue.text(str(value))


def _picture(path: Path, links: Links) -> str:
    """Return Markdown of a picture: small and a link to the whole, which Dagster shows at once, or within the text."""
    if link := links.to_file(path):
        return f"[![{path.stem}]({link}?width={_WIDTH_PX})]({link})"
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"


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
