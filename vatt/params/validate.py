"""Parameters of the stage validate."""

from pydantic import Field

from vatt.params.section import Rate, Section


class ValidateParams(Section):
    """Thresholds of the Great Expectations suite."""

    min_segments: int = Field(ge=1)
    min_segments_per_split: int = Field(ge=0)
    max_duration_gap_s: float = Field(ge=0)
    max_start_offset_s: float = Field(ge=0)
    max_words_per_second: float = Field(gt=0)
    """Of captions; see `vatt.preprocess.words` for languages without spaces."""
    max_silent_rate: Rate
    max_clipped_rate: Rate
    max_black_rate: Rate
    max_frozen_rate: Rate
    max_caption_offset_s: float = Field(ge=0)
    """The largest shift of captions against speech, judged where `min_caption_score` is reached."""
    min_caption_score: Rate
    """At 0, captions fit the speech no better than those of another video; at 1 they are the
    same."""
    max_unspoken_rate: Rate
    """The share of videos with captions and sound in which hardly anybody speaks."""
    max_duplicate_rate: Rate
    """The share of videos that look or sound like one of a split before their own: test,
    validation, train."""
    max_quarantined_rate: Rate
    """The share of the inputs that were there; missing items of an official list do not count."""
    mostly_warning: Rate
    """A limit that holds in a smaller share of the segments than this is a warning."""
    mostly_critical: Rate
    """A limit that holds in a smaller share of the segments than this stops the pipeline."""
