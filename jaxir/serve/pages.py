"""The web page's files, read once; nothing that a client names is looked up on disk."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["SECURITY", "PageFile", "page_files"]

SECURITY: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": "default-src 'none'; script-src 'self'; "
        "style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
)
"""Headers of every answer: nothing inline, nothing from elsewhere."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}


class PageFile(NamedTuple):
    """A file of the page.

    Attributes:
      content: its bytes.
      media_type: what it is.
    """

    content: bytes
    media_type: str


def page_files() -> dict[str, PageFile]:
    """The files of the package's ``page`` folder by their names there."""
    folder = Path(__file__).parent / "page"
    return {
        path.relative_to(folder).as_posix(): PageFile(
            path.read_bytes(), _TYPES[path.suffix]
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TYPES
    }
