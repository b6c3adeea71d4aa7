"""The base of every section of params.yaml: frozen, and closed to unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A section of params.yaml, which refuses unknown keys, wrong types and NaN by name."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
