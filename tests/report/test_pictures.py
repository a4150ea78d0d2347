"""Which pictures are shown, and that they are the ones they are said to be."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from imgclass.evaluate.outcomes import Outcomes
from imgclass.report import pictures


def decoded(uri):
    head, _, body = uri.partition(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))


@pytest.fixture
def said():
    """Rows 1, 2, 4 and 5 are wrong: 0 taken for 1 at 0.6 and 0.9, and twice 2 for 0 at 0.7."""
    probabilities = np.array(
        [[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.05, 0.9, 0.05],
         [0.1, 0.1, 0.8], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2]], np.float32
    )  # fmt: skip
    labels = np.array([0, 0, 0, 2, 2, 2], np.int32)
    return Outcomes(probabilities, labels, np.arange(6))


def test_errors_come_surest_first_and_ties_by_row(said):
    assert pictures.confident_errors(said).tolist() == [2, 4, 5, 1]
    assert pictures.confident_errors(said, 2).tolist() == [2, 4]


def test_a_pair_has_its_own_pictures(said):
    assert pictures.of_pair(said, 0, 1).tolist() == [2, 1]
    assert pictures.of_pair(said, 2, 0).tolist() == [4, 5]
    assert pictures.of_pair(said, 1, 0).tolist() == []


def test_small_pictures_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 3)).astype(np.uint8)
    head, found = decoded(pictures.data_uri(pixels))
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(decoded(pictures.data_uri(pixels[:, :, :1]))[1], pixels[:, :, 0])


def test_large_pictures_are_made_smaller():
    head, found = decoded(pictures.data_uri(np.full((300, 600, 3), 200, np.uint8)))
    assert head == "data:image/jpeg;base64"
    assert found.shape == (80, 160, 3)
    assert np.abs(found.astype(int) - 200).max() <= 2


def test_a_shown_picture_is_the_file_it_names(report):
    _, _, found, data, scored = report
    rows = np.array([7, 0])
    shown = pictures.show(found, data, "test", scored["test"], rows)
    for row, one in zip(rows.tolist(), shown, strict=True):
        (record,) = list(data.splits["test"].read([row]))
        stored = np.asarray(Image.open(io.BytesIO(record.image)))
        np.testing.assert_array_equal(decoded(one.picture)[1], stored)
        assert one.name == data.splits["test"].example_names([row])[0]
        assert one.label == data.splits["test"].labels[row]
        assert one.map == ""


def test_errors_are_explained_in_the_report(report):
    _, content, found, data, scored = report
    wrong = pictures.confident_errors(scored["test"])
    shown = pictures.show(found, data, "test", scored["test"], wrong, explain=True)
    assert [one.index for one in shown] == [entry["index"] for entry in content["errors"]]
    assert all(decoded(one.map)[1].shape == (8, 8, 3) for one in shown)


def test_what_the_net_saw_is_the_first_step_s_batch(report):
    """Only brightness is on, which multiplies every pixel of a picture by one factor."""
    _, _, found, data, _ = report
    for one in pictures.first_seen(found, data, 8):
        before, after = (decoded(uri)[1].astype(float) for uri in (one.before, one.after))
        factor = after.sum() / before.sum()
        assert 0.5 <= factor <= 1.5
        np.testing.assert_allclose(after, before * factor, atol=1.0)  # rounding to whole levels
