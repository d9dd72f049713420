"""Pages read as a browser reads them."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "source", "br", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Tags balanced, ids collected, texts and scripts apart."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.texts, self.scripts, self.tags = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        if tag not in VOID:
            self.open.append((tag, attrs))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attrs = self.open[-1] if self.open else ("", {})
        if tag == "script":
            self.scripts.append((attrs.get("type"), data))
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())
