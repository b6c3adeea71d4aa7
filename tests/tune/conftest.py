"""A study in peace, to compare those with accidents with."""

import pytest

from tests.tune.trainings import make_plan, make_study, read_files


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a study that one worker made."""
    folder = tmp_path_factory.mktemp("peace")
    make_study(make_plan(), folder)
    return read_files(folder)
