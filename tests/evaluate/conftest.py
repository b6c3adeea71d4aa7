"""The small corpus of the stages: two classes, a silent clip, a sound without a picture."""

from tests.stages.conftest import small_corpus

__all__ = ["small_corpus"]
