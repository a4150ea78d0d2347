"""Sections of pictures: what the model was surest of and wrong, and the pairs it confuses."""

from typing import Any

from imgclass.report import markup
from imgclass.report.pictures import Shown


def errors(shown: list[Shown], content: dict[str, Any], small: bool) -> str:
    """Returns the most confident errors, each beside the pixels that spoke for the answer."""
    explained = any(picture.map for picture in shown)
    beside = (
        " Beside each, what spoke for the answer (Grad-CAM): if it is not the object, the net has "
        "learned something else."
    )
    figures = "".join(_figure(picture, content["class_names"], small) for picture in shown)
    wide = " wide" if explained else ""
    body = f'<div class="pictures{wide}">{figures}</div>'
    return markup.section(
        "errors",
        "Most confident errors",
        "Wrong, and sure of it: look here first for wrong labels, odd pictures, and classes that "
        "overlap." + beside * explained,
        body if shown else markup.note("There are no errors."),
    )


def pairs(shown: list[list[Shown]], content: dict[str, Any], small: bool) -> str:
    """Returns the pairs of classes confused most, with pictures of each."""
    names, parts = content["class_names"], []
    for pair, pictures in zip(content["measures"]["confused"], shown, strict=False):
        figures = "".join(_figure(picture, names, small) for picture in pictures)
        parts.append(
            f"<h3>{markup.text(pair['true_name'])} taken for "
            f"{markup.text(pair['predicted_name'])}: "
            f"{pair['count']:,} ({pair['share']:.1%} of the class)</h3>"
            f'<div class="pictures">{figures}</div>'
        )
    return markup.section(
        "pairs",
        "Most confused pairs",
        "The commonest confusions, the surest pictures of each. A pair that goes one way only "
        "often means that one class has few training pictures.",
        *(parts or [markup.note("No class is taken for another.")]),
    )


def _figure(picture: Shown, names: list[str], small: bool) -> str:
    what = f"{names[picture.label]} taken for {names[picture.predicted]}"
    images = markup.image(picture.picture, what, small)
    if picture.map:
        images += markup.image(picture.map, "what spoke for the answer", False)
    return (
        f'<figure><div class="pair">{images}</div>'
        f"<b>{markup.text(names[picture.predicted])}</b> {picture.confidence:.1%}, is "
        f"<b>{markup.text(names[picture.label])}</b>"
        f'<span class="file">{markup.text(picture.name)}</span></figure>'
    )
