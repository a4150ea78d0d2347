"""Reads a page strictly: what is open is closed, in order, and what is pointed at is there."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Attributes: `tags` with their attributes, `text`, and `problems`."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.problems: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self._open]
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        self.problems += sorted({f"id {name} occurs twice" for name in ids if ids.count(name) > 1})
        for tag, attributes in self.tags:
            for name, value in attributes.items():
                at = str(value).removeprefix("url(").removesuffix(")")
                pointer = name in ("href", "xlink:href", "clip-path") and at.startswith("#")
                if pointer and at[1:] not in ids:
                    self.problems.append(f"<{tag} {name}={value}> leads nowhere")

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing, or another")

    def handle_data(self, data):
        self.text += data
