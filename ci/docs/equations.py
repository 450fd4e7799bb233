"""TeX between dollars becomes MathML when the site is built: no script, no network."""

import html
import re

from latex2mathml.converter import convert

_FOUND = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.S
)
_TAG = re.compile(r"\\tag\{([^}]*)\}")


def mathml(tex: str, display: bool) -> str:
    """One formula as MathML; a ``\\tag`` stands to its right.

    Args:
      tex: as in a paper.
      display: on a line of its own.
    """
    tag = _TAG.search(tex)
    tex = _TAG.sub("", tex).strip()
    found = convert(tex, display="block" if display else "inline")
    if "\\" in html.unescape(re.sub(r"<[^>]*>", "", found)):
        raise ValueError(f"TeX that is not converted: {tex}")
    if not display:
        return found
    number = (
        f'<span class="equation-number">{html.escape(tag[1])}</span>' if tag else ""
    )
    body = f'<div class="equation-body">{found}</div>'
    return f'<div class="equation" data-search-exclude>{body}{number}</div>'


def with_mathml(content: str) -> str:
    """A page's HTML, each formula converted."""
    return _FOUND.sub(
        lambda match: mathml(html.unescape(match[3]), match[2] == "["), content
    )
