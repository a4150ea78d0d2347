"""One run and its report, for all tests of the room."""

import pytest

from tests import tiny
from tests.report import runs


@pytest.fixture(scope="package")
def report(tmp_path_factory):
    """(run folder, content, found, data, outcomes by split) of a report on test."""
    root = tmp_path_factory.mktemp("report")
    with tiny.compiled_once(root / "programs"):
        folder = runs.trained(root)
        return folder, *runs.reported(folder)
