"""What the environment says about the nights: SCARFORGE_NIGHTLY_PROFILE, _FOLDS, _CRON, _TIMEZONE, _FORCE."""

from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

from dagster._utils.schedules import is_valid_cron_string  # not exported, yet what the schedule itself asks
from pydantic import Field, ValidationError, field_validator

from imaging.config import FrozenConfig
from imaging.errors import InputError, some_of
from pipeline.night import YES

PREFIX = "SCARFORGE_NIGHTLY_"
_FOLDS = ("0", "1", "2", "3", "4")
_NO = frozenset({"", "0", "false", "no", "off"})


class NightlySettings(FrozenConfig):
    """When the nightly run starts, on which folds, with which profile, and whether it trains again regardless."""

    profile: str = "demo"
    folds: tuple[str, ...] = Field(default=("0",), min_length=1)
    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    force: bool = False
    source: str = "phantom"
    root: Path | None = None

    @field_validator("folds")
    @classmethod
    def _known_folds(cls, folds: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(folds) - set(_FOLDS)):
            raise ValueError(f"{some_of(unknown)} is no fold; choose from 0 to 4, such as 0,1")
        return tuple(dict.fromkeys(folds))

    @field_validator("cron")
    @classmethod
    def _valid_cron(cls, cron: str) -> str:
        if not is_valid_cron_string(cron):
            raise ValueError("is no cron schedule; five fields such as '0 2 * * *' (at 02:00)")
        return cron

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:  # KeyError: unknown to this machine
            raise ValueError("is no time zone of the IANA list, such as Europe/London") from error
        return timezone


def nightly_settings(environment: Mapping[str, str], profiles: frozenset[str]) -> NightlySettings:
    """Read the settings of the nights from the environment.

    Args:
        environment: Usually `os.environ`.
        profiles: The profiles that have a job.

    Raises:
        InputError: A value cannot be used; the message names its variable.
    """
    default = NightlySettings()
    source = environment.get("SCARFORGE_SOURCE", default.source)
    profile = environment.get("SCARFORGE_PROFILE", default.profile if source == default.source else "quick")
    values = {
        name: environment.get(f"{PREFIX}{name.upper()}", given)
        for name, given in (("profile", profile), ("cron", default.cron), ("timezone", default.timezone))
    }
    if values["profile"] not in profiles:
        known = ", ".join(sorted(profiles))
        raise InputError(f"{PREFIX}PROFILE={values['profile']!r} does not exist; choose one of {known}")
    folds = [fold.strip() for fold in environment.get(f"{PREFIX}FOLDS", "0").split(",") if fold.strip()]
    root = environment.get("SCARFORGE_ROOT")
    try:
        return NightlySettings(
            **values,
            folds=tuple(folds),
            force=_switch(f"{PREFIX}FORCE", environment.get(f"{PREFIX}FORCE", "")),
            source=source,
            root=Path(root).absolute() if root else None,
        )
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"{PREFIX}{str(first['loc'][0]).upper()}"
        raise InputError(
            f"{variable}={environment.get(variable)!r}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _switch(variable: str, value: str) -> bool:
    if value.lower() in YES:
        return True
    if value.lower() in _NO:
        return False
    raise InputError(f"{variable}={value!r}: say true or false")
