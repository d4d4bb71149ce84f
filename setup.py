"""The description that an index page shows: README without what a page outside the repository cannot show."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).parent / "README.md"


def description(text: str) -> str:
    """Without pictures and comments, and with the words of links into the repository in the place of these links."""
    text = re.sub(r"<!--.*?-->\n*|!\[[^]]*\]\([^)]*\)\n*", "", text, flags=re.DOTALL)
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


if __name__ == "__main__":
    setup(
        long_description=description(README.read_text(encoding="utf-8")), long_description_content_type="text/markdown"
    )
