"""Plots as text, dot by dot. In braille dots 1-2-3-7 are the left column, 4-5-6-8 the right one."""

import pytest

from imgclass.watch import textplot

BLUE = "\x1b[36m"


def drawn(lines):
    """Returns the drawing alone: neither title nor labels nor axis."""
    return [line[textplot.LABEL + 1 :] for line in lines[1:-1]]


def test_a_falling_line_by_hand():
    """2 cells by 2 are 4 dots by 8: from the top left to the bottom right, 2 dots down for each.

    Dots (0, 0) to (3, 7): x = round(3 i / 7) over y = i is 0 0 1 1 2 2 3 3. The upper cell on the
    left has dots 1 2 on its left column and 6 8 on its right; the lower one on the right the same.
    """
    lines = textplot.plot("t", [(0.0, 1.0), (3.0, 0.0)], [], 3.0, 10, 2, textplot.number)
    upper = chr(0x2800 + 0x01 + 0x02 + 0x20 + 0x80)
    assert drawn(lines) == [upper, " " + upper]


def test_marks_lie_upon_the_line_and_labels_are_the_extremes():
    lines = textplot.plot(
        "loss", [(0.0, 2.0), (10.0, 2.0)], [(0.0, 4.0), (10.0, 1.0)], 10.0, 18, 4, textplot.number
    )
    assert lines[0] == "loss"
    assert lines[1] == "      4|o"
    assert lines[4] == "      1|         o"
    assert lines[5] == "        0       10"
    assert max(map(len, lines)) <= 18


def test_a_value_that_never_changes_is_in_the_middle():
    """Dots 0 to 15; the middle is round(7.5) = 8, the top dots of the third of four rows."""
    lines = textplot.plot("t", [(0.0, 0.5), (9.0, 0.5)], [], 9.0, 16, 4, textplot.percent)
    assert [row.strip() for row in drawn(lines)] == ["", "", chr(0x2800 + 0x01 + 0x08) * 8, ""]
    assert lines[1].startswith("  75.0%|")
    assert lines[4].startswith("  25.0%|")


def test_without_points_it_says_so():
    assert textplot.plot("loss", [], [], 10.0, 30, 4, textplot.number) == ["loss: nothing yet"]


def test_what_lies_past_the_end_is_at_the_edge():
    lines = textplot.plot("t", [], [(50.0, 1.0)], 10.0, 20, 2, textplot.number)
    assert drawn(lines)[1] == " " * 11 + "o"


def test_colours_only_if_asked_for():
    points = [(0.0, 1.0), (3.0, 0.0)]
    plain = textplot.plot("t", points, points, 3.0, 20, 3, textplot.number)
    colored = textplot.plot("t", points, points, 3.0, 20, 3, textplot.number, color=True)
    assert "\x1b" not in "".join(plain)
    for code in (textplot.LINE, textplot.MARKS, textplot.RESET):
        assert code in "".join(colored)
        colored = [line.replace(code, "") for line in colored]
    assert colored == plain


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.6527, 12.5, 123456.0, 1e30, -12.5])
def test_a_number_fits_its_label(value):
    text = textplot.number(value)
    assert len(text) <= textplot.LABEL
    assert float(text) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (180_000, "2 d 2 h"),
     (float("inf"), "?")],
)  # fmt: skip
def test_durations(seconds, text):
    assert textplot.duration(seconds) == text
