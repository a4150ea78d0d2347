"""Progressive resizing: which size at which step."""

import pytest

from imgclass.data import stages


def test_no_sizes_is_one_stage():
    assert stages.stages((), (), (32, 48), 100) == (stages.Stage(0, (32, 48)),)


def test_widths_follow_the_shape():
    made = stages.stages((64, 100), (0.25,), (200, 150), 1000)
    assert [(stage.first, stage.size) for stage in made] == [(0, (64, 48)), (250, (100, 75))]


@pytest.mark.parametrize(
    ("step", "height"), [(0, 128), (374, 128), (375, 160), (749, 160), (750, 224), (10**6, 224)]
)
def test_sizes_at_and_around_each_boundary(step, height):
    made = stages.stages((128, 160, 224), (0.375, 0.75), (224, 224), 1000)
    assert made[stages.place(made, step)].size == (height, height)


def test_in_a_run_too_short_for_its_stages_the_later_one_counts():
    made = stages.stages((8, 16, 32), (0.1, 0.2), (32, 32), 3)
    assert [stage.first for stage in made] == [0, 0, 1]
    assert [made[stages.place(made, step)].size[0] for step in range(3)] == [16, 32, 32]
