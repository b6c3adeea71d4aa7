"""Parameters of the contrastive loss (VATT section 3.4)."""

from typing import Literal

from pydantic import Field

from vatt.params.section import Section


class LossParams(Section):
    """NCE for video-audio and MIL-NCE for video-text (VATT section 3.4)."""

    form: Literal["asymmetric", "symmetric"]
    """Both directions under one denominator, as released, or the sum of one loss each."""
    positives: Literal["twice", "once"]
    """How often they stand in the one denominator: twice as released, once as in the paper (eq. 4, 5).

    The symmetric form has them once in each of its two denominators, whatever this says.
    """
    temperature: float = Field(gt=0)
    weight_va: float = Field(ge=0)
    weight_vt: float = Field(ge=0)
    valid_mean: Literal["global", "replica"]
    """Mean over the valid clips of all ranks (the same at any number of ranks), or, as released, of each."""
    rows_per_chunk: int | None = Field(ge=1)
    """Clips of a rank compared with those of all ranks at once; None: all. Changes memory and time only."""
