"""Sections on the run itself: its data, its config, where it ran, and how to get it again."""

from typing import Any

from imgclass.report import markup
from imgclass.report.pictures import Seen

MOST_NAMES = 4  # of one picture that is there several times


def seen(pictures: list[Seen], content: dict[str, Any], small: bool) -> str:
    """Returns the first training pictures, before and after augmentation."""
    names = content["class_names"]
    figures = [
        '<figure><div class="pair">'
        f"{markup.image(p.before, 'as stored', small)}{markup.image(p.after, 'as trained', small)}"
        f"</div>{markup.text(names[p.label])}</figure>"
        for p in pictures
    ]
    made = "".join(figures)
    return markup.section(
        "seen",
        "What the net saw",
        "The first pictures of the first step: as stored on the left, and on the right as the net "
        "got them. A class that cannot be told from the right-hand picture cannot be learned "
        "from it; two equal pictures mean that no augmentation is on.",
        f'<div class="pictures wide">{made}</div>',
    )


def data(content: dict[str, Any]) -> str:
    """Returns the splits, the duplicates between them, and what else is wrong with the data."""
    about = content["data"]
    counts = ", ".join(f"{count:,} {role}" for role, count in about["splits"].items())
    parts = [markup.note(f"{about['name']}: {counts} pictures.")]
    if not about["compared"]:
        parts.append(
            markup.note(
                "So many pictures were not compared here, as all of them would have to be decoded; "
                f"imgclass data {about['name']} does that."
            )
        )
    elif not about["duplicates"]:
        parts.append(markup.note("No two pictures have the same pixels."))
    else:
        rows = [
            (
                " and ".join(found["splits"]),
                _groups(found["shown"]),
                found["pictures"],
                found["examples"],
                found["labels_differ"],
            )
            for found in about["duplicates"]
        ]
        head = ("within", "such as", "pictures", "examples", "labels differ")
        parts.append(markup.table(head, rows, words=2))
    for found in about["findings"]:
        show = markup.warning if found["level"] == "warning" else markup.note
        parts.append(show(f"{found['level'].capitalize()}: {found['text']}."))
    return markup.section(
        "data",
        "The data",
        "Pictures with the same pixels in two splits flatter the score: the net has been told the "
        "answer. Within one split they count twice.",
        *parts,
    )


def _groups(shown: Any) -> str:
    groups = [" = ".join(example["name"] for example in group[:MOST_NAMES]) for group in shown]
    return "; ".join(groups)


def config(content: dict[str, Any]) -> str:
    """Returns the keys that are not at their defaults."""
    rows = [
        (key, _value(both["run"]), _value(both["default"]))
        for key, both in content["config"]["changed"].items()
    ]
    how = "Every key that differs from its default; config.json has them all."
    if not rows:
        return markup.section("config", "The config", how, markup.note("All are at the default."))
    return markup.section(
        "config", "The config", how, markup.table(("key", "this run", "default"), rows, words=3)
    )


def _value(value: Any) -> str:
    if value is None:
        return "not given"
    return "''" if value == "" else str(value)


def environment(content: dict[str, Any]) -> str:
    """Returns how to get the run again, and where it ran."""
    about = content["environment"]
    if about is None:
        note = markup.note("The run was imported: how it was trained is not recorded.")
        return markup.section("again", "Get it again", "Where the weights come from.", note)
    git = about.get("git") or {}
    commit = git.get("commit")
    lines = [f"git checkout {commit}"] * bool(commit) + [content["command"] or ""]
    parts = [f"<pre><code>{markup.text(chr(10).join(lines))}</code></pre>"]
    if git.get("changed"):
        parts.append(markup.warning("The code had changes that were not committed."))
    if content["starts"] > 1:
        parts.append(
            markup.note(f"The run was started {content['starts']} times; this is the first start.")
        )
    if content["config_changed"]:
        changed = "; ".join(content["config_changed"])
        parts.append(markup.warning(f"The command is the first start's. Changed since: {changed}."))
    devices = about.get("devices") or []
    rows = [
        ("started", about.get("time")),
        ("in", about.get("directory")),
        ("devices", f"{len(devices)} x {devices[0]}" if devices else "-"),
        ("processes", about.get("processes")),
        ("cores", about.get("cores")),
        ("platform", about.get("platform")),
        ("Python", about.get("python")),
        *(about.get("packages") or {}).items(),
        *(about.get("settings") or {}).items(),
    ]
    parts.append(markup.table(("", "last start"), rows, words=2))
    return markup.section(
        "again",
        "Get it again",
        "The same code, command and data give the same examples in the same order; on the same "
        "machine and number of devices, the same bits.",
        *parts,
    )
