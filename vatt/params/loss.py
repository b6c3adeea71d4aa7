"""Parameters of the contrastive loss (VATT section 3.4)."""

from typing import Literal

from pydantic import Field

from vatt.params.section import Section


class LossParams(Section):
    """NCE for video-audio and MIL-NCE for video-text (VATT section 3.4)."""

    temperature: float = Field(gt=0)
    weight_va: float = Field(ge=0)
    weight_vt: float = Field(ge=0)
    valid_mean: Literal["global", "replica"]
    """Mean over the valid clips of all ranks (the same at any number of ranks), or, as released, of each."""
