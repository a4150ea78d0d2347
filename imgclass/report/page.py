"""The page: one HTML file that needs no network and no script.

The order of the sections is that of the questions: how good, how it got there, where it fails,
what it saw, and how to do it again.
"""

import dataclasses
import re
from typing import Any

from imgclass.report import about, examples, markup, quality, robust, scores
from imgclass.report.pictures import Seen, Shown
from imgclass.report.style import CSS

MOST_BESIDE = 12  # classes, with whose matrix a second section fits beside it


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is shown besides words and numbers; `small` says that it is enlarged in whole pixels."""

    errors: list[Shown]
    pairs: list[list[Shown]]
    seen: list[Seen]
    small: bool


def render(content: dict[str, Any], pictures: Pictures) -> str:
    """Returns the page of what `content.gather` returned."""
    small = pictures.small
    sections = [
        quality.headline(content),
        quality.curves(content),
        _beside(content, quality.confusion(content), quality.by_class(content)),
        scores.ranking(content),
        scores.calibration(content),
        scores.selective(content),
        examples.errors(pictures.errors, content, small),
        examples.pairs(pictures.pairs, content, small),
        robust.robustness(content),
        about.seen(pictures.seen, content, small),
        about.data(content),
        about.config(content),
        about.environment(content),
    ]
    links = [
        f'<a href="#{anchor}">{title}</a>'
        for made in sections
        for anchor, title in re.findall(r'<section id="(\w+)"><h2>(.*?)</h2>', made)
    ]
    title = markup.text(content["run"])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{_about(content)}<nav>{''.join(links)}</nav></header>\n"
        f"<main>\n{''.join(sections)}</main>\n<footer><p>{_footer(content)}</p></footer>\n"
        "</body>\n</html>\n"
    )


def _beside(content: dict[str, Any], *sections: str) -> str:
    """Lays sections out side by side where there is room, if they are narrow."""
    made = "".join(sections)
    narrow = len(content["class_names"]) <= MOST_BESIDE
    return f'<div class="beside">{made}</div>' if narrow else made


def _about(content: dict[str, Any]) -> str:
    result = content["result"] or {}
    words = [
        f"{content['model']}, {result['parameters']:,} parameters" if result else content["model"]
    ]
    words.append(f"{content['data']['name']}, {len(content['class_names']):,} classes")
    words.append(f"weights of step {content['step']:,}")
    if result:
        words.append(f"{result['epochs']:.1f} epochs in {result['wall_seconds']:,.0f} s")
    looks = content["test_looks"]
    times = {0: "never", 1: "once", 2: "twice"}.get(looks, f"{looks:,} times")
    warned = ""
    if content["split"] == "train":
        warned = markup.warning(
            "There is no validation or test split: these are figures of the pictures that the net "
            "was trained on, and say nothing of others."
        )
    elif content["split"] == "validation":
        words.append("figures of validation, which chose these weights and so flatters them")
    words.append(f"the test split was looked at {times}")
    return f'<p class="about">{markup.text("; ".join(words))}.</p>{warned}'


def _footer(content: dict[str, Any]) -> str:
    return (
        f"Made by <code>{markup.text(content['report_command'])}</code>. "
        "The same figures are in report.json."
    )
