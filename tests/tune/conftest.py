"""A study in peace, to compare those with accidents with."""

import pytest

from tests.tune.campaign import make_study, read_files
from tests.tune.trainings import Training, make_plan


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a study that one worker made."""
    folder = tmp_path_factory.mktemp("peace")
    make_study(make_plan(), folder, Training(folder / "log"))
    return read_files(folder)
