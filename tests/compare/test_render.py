"""A table in four notations, read back with other programs' eyes; and its plot."""

import csv
import html.parser
import io
import json
import math
import xml.etree.ElementTree as xml

import pytest
from PIL import Image

from imgclass.compare import plot, render
from imgclass.compare.statistics import Comparison
from imgclass.compare.table import Row, Table
from imgclass.errors import UsageError, UserError

NAN = math.nan
BASE = Row(
    ("50%_a&b|c*", (64, 64)), ("runs/a-1", "runs/a-2"), (0, 1), (0.5, 0.75), 0.625, 0.17677669,
    -0.96327559, 2.21327559, "seeds", verdict="baseline",
)  # fmt: skip
BEST = Row(
    ("<b>$x^2~{1}\\", None), ("runs/b-1", "runs/b-2"), (0, 1), (0.75, 1.0), 0.875, 0.17677669,
    -0.71327559, 2.46327559, "seeds", Comparison("paired t over seeds", 0.25, 0.1, 0.4, 0.00001),
    0.00002, (0.2, 0.3), "better",
)  # fmt: skip
ONE = Row(("", ()), ("runs/c",), (0,), (0.25,), 0.25, NAN, 0.125, 0.375, "pictures",
          Comparison("McNemar, exact", -0.375, -0.5, -0.25, 0.5), 0.5, (-0.5, -0.25))  # fmt: skip
DEAD = Row(("x", ()), ("runs/d",), (0,), (NAN,), NAN, NAN, NAN, NAN, "")
TABLE = Table(
    "accuracy", "validation", 1024, ("model.name", "data.image_size"), (BEST, BASE, ONE, DEAD),
    ("A note with 5% & a <tag>.",),
)  # fmt: skip


def test_markdown_has_a_row_for_each_group_and_escapes_bars():
    lines = render.render(TABLE, "markdown").splitlines()
    assert lines[0] == "accuracy on validation, best checkpoints, 1,024 pictures"
    assert lines[4] == (
        r"| \<b>$x^2~{1}\\ | - | 2 | 0.8750 | 0.1768 | -0.7133 to 2.4633 | +0.2500 "
        r"| +0.1000 to +0.4000 | +0.2000 to +0.3000 | \<0.0001 | better |"
    )
    assert lines[5].startswith(r"| 50%_a&b\|c\* | (64, 64) | 2 | 0.6250 ")
    assert "| '' | () | 1 | 0.2500 | - | 0.1250 to 0.3750 pictures |" in lines[6]
    assert lines[7] == "| x | () | 1 | - | - | - | - | - | - | - |  |"
    bars = {line.replace(r"\|", "").count("|") for line in lines[2:8]}
    assert bars == {12}
    assert lines[-1] == "- A note with 5% & a <tag>."


def test_csv_has_every_digit_and_reads_back():
    rows = list(csv.DictReader(io.StringIO(render.render(TABLE, "csv"))))
    assert [row["model.name"] for row in rows] == [r.settings[0] for r in TABLE.rows]
    assert [float(row["mean"] or "nan") for row in rows[:3]] == [0.875, 0.625, 0.25]
    assert (rows[0]["p"], rows[0]["p_corrected"]) == ("1e-05", "2e-05")
    assert (rows[0]["data.image_size"], rows[1]["data.image_size"]) == ("", "(64, 64)")
    assert (rows[0]["values"], rows[0]["runs"]) == ("0.75;1.0", "runs/b-1;runs/b-2")
    assert (rows[3]["mean"], rows[3]["p"], rows[3]["verdict"]) == ("", "", "")
    assert (rows[2]["interval_over"], rows[2]["test"]) == ("pictures", "McNemar, exact")


def test_latex_is_booktabs_and_escaped():
    lines = render.render(TABLE, "latex").splitlines()
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body[0] == (
        r"\textless{}b\textgreater{}\$x\textasciicircum{}2\textasciitilde{}\{1\}"
        r"\textbackslash{} & - & 2 & 0.8750 & 0.1768 & $-$0.7133 to 2.4633 & +0.2500 & "
        r"+0.1000 to +0.4000 & +0.2000 to +0.3000 & \textless{}0.0001 & better \\"
    )
    assert body[1].startswith(r"50\%\_a\&b\textbar{}c* & (64, 64) & 2")
    cells = {line.replace(r"\&", "").count("&") for line in body}
    assert cells == {10}
    assert lines[lines.index(r"\toprule") - 1] == r"\begin{tabular}{llrrrrrrrrl}"
    assert r"A note with 5\% \& a \textless{}tag\textgreater{}.}" in lines[-2]


class Reader(html.parser.HTMLParser):
    """Collects cells, and whatever would be fetched from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.cells, self.fetched, self.classes = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta",):
            self.open.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.cells.append([])
            self.classes.append(dict(attributes).get("class"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)


def test_html_is_one_page_that_fetches_nothing():
    reader = Reader()
    text = render.render(TABLE, "html")
    reader.feed(text)
    assert (reader.open, reader.fetched) == ([], [])
    assert "url(" not in text
    assert reader.cells[1][:4] == ["<b>$x^2~{1}\\", "-", "2", "0.8750"]
    assert reader.classes == [None, "better", "baseline", "", ""]
    assert "<tag>" not in text


def test_a_record_is_plain_data():
    found = render.record(TABLE, BEST)
    assert json.loads(json.dumps(found)) == found
    assert found["settings"] == {"model.name": "<b>$x^2~{1}\\", "data.image_size": None}
    assert (found["n"], found["difference"], found["pictures_low"]) == (2, 0.25, 0.2)


def test_plots_are_what_their_names_say(tmp_path):
    plot.draw(TABLE, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1200  # 8 inches of 150 dots
    plot.draw(TABLE, tmp_path / "plot.svg")
    assert xml.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")
    first = (tmp_path / "plot.svg").read_bytes()
    plot.draw(TABLE, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_bytes() == first
    with pytest.raises(UsageError, match=r"plot\.pdf: its name has to end in \.png or \.svg"):
        plot.draw(TABLE, tmp_path / "plot.pdf")
    with pytest.raises(UserError, match="cannot be written"):
        plot.draw(TABLE, tmp_path / "no/plot.png")


def test_a_plot_of_many_groups_grows(tmp_path):
    many = Table("accuracy", "test", 9, TABLE.keys, (BEST, BASE, ONE) * 20, ())
    plot.draw(many, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.height > 5000
