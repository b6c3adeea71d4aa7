"""The small corpus and its export, as the stages leave them."""

from tests.stages.conftest import project, small_corpus

__all__ = ["project", "small_corpus"]
