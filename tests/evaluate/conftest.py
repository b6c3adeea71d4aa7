"""The small corpus of the stages, and the report of a small evaluated world."""

from typing import Any

import pytest

from tests.evaluate.world import make_report
from tests.stages.conftest import small_corpus
from vatt.evaluate.report import Report

__all__ = ["small_corpus"]


@pytest.fixture(scope="session")
def report() -> Report:
    return make_report()


@pytest.fixture
def metrics(report: Report) -> dict[str, Any]:
    return {**report.metrics, "published": []}
