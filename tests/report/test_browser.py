"""The page in a real browser: nothing overflows, nothing is complained of, both themes differ."""

import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = (360, 1440)
# A page around the page, which measures it: the report itself has no script.
AROUND = """<!doctype html><meta charset="utf-8">{frames}<pre></pre><script>
onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement;
    const style = element => frame.contentWindow.getComputedStyle(element);
    return {{
      shown: root.clientWidth, needed: root.scrollWidth,
      background: style(page.body).backgroundColor, ink: style(page.body).color,
      chart: style(page.querySelector("svg text")).fill,
      pictures: [...page.images].map(image => image.naturalWidth * image.clientWidth),
      charts: [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
      beyond: [...page.querySelectorAll("main *")].filter(element =>
        !element.closest(".scroll, svg") &&
        element.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.outerHTML),
    }};
  }});
  document.querySelector("pre").textContent = JSON.stringify(found);
}};
</script>"""


def looked_at(folder, scheme):
    """Returns what each width measured, and what the browser wrote to its console."""
    frames = "".join(
        f'<iframe src="report.html" width="{width}" height="900"></iframe>' for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(AROUND.format(frames=frames))
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--allow-file-access-from-files", "--virtual-time-budget=5000",
            f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", around.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    text = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert text is not None
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(text[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), (
        complaints
    )


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
def test_it_renders_on_a_phone_and_a_desk_in_both_themes(report):
    folder = report[0]
    colours = []
    for scheme in (0, 1):  # dark, light
        found, complaints = looked_at(folder, scheme)
        assert not complaints
        for width, view in zip(WIDTHS, found, strict=True):
            assert view["shown"] > width - 20  # less a scroll bar, so the width was meant
            assert view["needed"] <= view["shown"]
            assert not view["beyond"]
            assert len(view["pictures"]) > 10
            assert min(view["pictures"]) > 0
            assert len(view["charts"]) == 7
            assert min(view["charts"]) > 100
            assert view["chart"] == view["ink"]
        colours.append([sum(map(int, re.findall(r"\d+", found[0][k])[:3]))
                        for k in ("background", "ink")])  # fmt: skip
    (dark_page, dark_ink), (light_page, light_ink) = colours
    assert dark_page < 150 < 600 < dark_ink
    assert light_ink < 150 < 600 < light_page
