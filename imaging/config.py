"""The base of every configuration object."""

from pydantic import BaseModel, ConfigDict


class FrozenConfig(BaseModel):
    """A configuration that cannot change after it is made and refuses unknown keys and wrong values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )
