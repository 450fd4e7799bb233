"""The report's style sheet, in two palettes and no outside font, and small pieces.

Hues are Okabe and Ito's ("Color universal design", 2008), told apart under the common
colour blindnesses; darker or lighter where contrast on the page's ground asks for it.
"""

import re
from collections.abc import Sequence
from html import escape

__all__ = ["STYLE", "section", "signed", "svg_file", "swatch"]

STYLE = """\
:root {
  color-scheme: light dark;
  --ground: #fdfdfc; --card: #ffffff; --ink: #1d2127; --soft: #565d68;
  --faint: #e7e8ea; --edge: #d3d6da; --base: #8b929c; --base-ink: #6a717b;
  --s0: #0067a8; --s1: #c54d00; --s2: #00805d; --s3: #ad5088; --s4: #966500;
  --s5: #2b7cab;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --card: #1a1e23; --ink: #e8eaed; --soft: #a4abb5;
    --faint: #2a2f36; --edge: #3a4048; --base: #7d8590; --base-ink: #9aa2ad;
    --s0: #58b4ee; --s1: #f0874a; --s2: #35c39a; --s3: #de94c0; --s4: #e8b23f;
    --s5: #9bd3f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 980px; margin: 0 auto; padding: 56px 40px 80px; }
header { margin-bottom: 44px; }
h1 { font-size: 34px; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 14px; }
h2 { font-size: 21px; letter-spacing: -0.01em; margin: 0 0 4px; }
h3 { font-size: 14px; margin: 18px 0 6px; color: var(--soft); font-weight: 600; }
.lead { font-size: 19px; line-height: 1.5; margin: 0 0 8px; max-width: 46em; }
.facts, .caption, .note { color: var(--soft); margin: 0; }
.caption { margin-bottom: 18px; max-width: 52em; }
.note { margin-top: 12px; font-size: 14px; max-width: 62em; }
.facts { font-size: 15px; }
section { margin: 0 0 56px; }
table { border-collapse: collapse; }
.scroll { overflow-x: auto; }
th { font-weight: 600; }
.headline { width: 100%; margin-top: 14px; }
.headline th, .headline td { padding: 11px 14px; text-align: right; }
.headline thead tr > * {
  color: var(--soft); font-size: 14px; border-bottom: 2px solid var(--ink);
}
.headline tbody tr + tr > * { border-top: 1px solid var(--faint); }
.headline th:first-child { text-align: left; padding-left: 0; }
.headline tbody tr:last-child > * { border-bottom: 1px solid var(--edge); }
.value { font-size: 18px; display: block; line-height: 1.25; position: relative; }
.value sup {
  position: absolute; left: 100%; top: -1px; padding-left: 1px; font-size: 12px;
  line-height: 1; font-weight: 400;
}
.best { font-weight: 700; }
small { font-size: 12.5px; color: var(--soft); white-space: nowrap; }
.swatch {
  display: inline-block; width: 10px; height: 10px; border-radius: 50%;
  margin-right: 9px; background: currentColor;
}
.swatch.base { color: var(--base); }
.swatch.s0 { color: var(--s0); } .swatch.s1 { color: var(--s1); }
.swatch.s2 { color: var(--s2); } .swatch.s3 { color: var(--s3); }
.swatch.s4 { color: var(--s4); } .swatch.s5 { color: var(--s5); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: inherit; font-size: 13px; fill: var(--ink); }
svg .tick { font-size: 12px; fill: var(--soft); }
svg .panel { font-size: 14px; font-weight: 600; }
svg .name { font-size: 13.5px; }
.base { --hue: var(--base); } .s0 { --hue: var(--s0); } .s1 { --hue: var(--s1); }
.s2 { --hue: var(--s2); } .s3 { --hue: var(--s3); } .s4 { --hue: var(--s4); }
.s5 { --hue: var(--s5); }
svg .base-text { fill: var(--base-ink); } svg .s0-text { fill: var(--s0); }
svg .s1-text { fill: var(--s1); } svg .s2-text { fill: var(--s2); }
svg .s3-text { fill: var(--s3); } svg .s4-text { fill: var(--s4); }
svg .s5-text { fill: var(--s5); }
svg .grid { stroke: var(--faint); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .reference { stroke: var(--base); stroke-width: 1.25; stroke-dasharray: 3 4; }
svg .bar { stroke: var(--hue); stroke-width: 2.5; stroke-linecap: round; }
svg .dot { fill: var(--hue); }
svg .hollow { fill: var(--ground); stroke: var(--hue); stroke-width: 2.25; }
svg .area { fill: var(--hue); }
svg .curve {
  fill: none; stroke: var(--hue); stroke-width: 2.25; stroke-linejoin: round;
  stroke-linecap: round;
}
svg .faint { opacity: 0.28; stroke-width: 1.25; }
.grid-2, .grid { display: grid; gap: 34px 28px; }
div.grid { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.legend { margin: 6px 0 16px; display: flex; gap: 24px; flex-wrap: wrap; }
details { border-top: 1px solid var(--edge); padding: 12px 0; }
details:last-of-type { border-bottom: 1px solid var(--edge); }
summary { cursor: pointer; font-weight: 600; }
summary .swatch { margin-left: 4px; }
.queries { width: 100%; }
.queries td { padding: 8px 0 8px 16px; border-top: 1px solid var(--faint); }
.queries tr:first-child td { border-top: 0; }
.queries .text { padding-left: 0; overflow-wrap: anywhere; line-height: 1.4; }
.queries .step { width: 166px; }
.number { text-align: right; white-space: nowrap; width: 1%; font-size: 14px; }
.none { color: var(--soft); padding-left: 0 !important; }
code, pre {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: 12.5px; color: var(--soft);
}
pre {
  background: var(--card); border: 1px solid var(--edge); border-radius: 8px;
  padding: 14px 16px; color: var(--ink); line-height: 1.6; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.full { width: 100%; font-size: 13px; }
.full th, .full td { padding: 6px 7px; text-align: right; white-space: nowrap; }
.full th {
  color: var(--soft); border-bottom: 1px solid var(--ink); white-space: normal;
  vertical-align: bottom;
}
.full td { border-bottom: 1px solid var(--faint); }
.full th:nth-child(-n+2), .full td:nth-child(-n+2) { text-align: left; }
.full th:first-child, .full td:first-child { padding-left: 0; }
.full th:last-child, .full td:last-child { padding-right: 0; }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px;
  margin: 10px 0;
}
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  main { padding: 32px 18px 56px; }
  .queries .step { display: none; }
}
@media print {
  main { max-width: none; padding: 0; } section { break-inside: avoid; }
}
"""
"""The rules, as they stand inside the page's ``<style>``."""


def section(title: str, caption: str, *bodies: str) -> str:
    """A titled part of the page; ``caption`` and ``bodies`` are HTML already."""
    lead = f'<p class="caption">{caption}</p>\n' if caption else ""
    body = "\n".join(bodies)
    return f"<section>\n<h2>{escape(title)}</h2>\n{lead}{body}\n</section>"


def swatch(color: str) -> str:
    """The dot that carries a system's colour beside its name."""
    return f'<span class="swatch {color}"></span>'


def signed(value: int | float, digits: int = 3) -> str:
    """A difference with its sign, the minus as wide as the plus.

    Example::

      >>> signed(0.25), signed(-0.5, 1)
      ('+0.250', '−0.5')
    """
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def svg_file(plots: Sequence[str], height: float) -> str:
    """Plots one above the other as an SVG file that needs no page.

    Args:
      plots: ``<svg>`` elements of ``jaxir.plots``.
      height: of each of them.
    """
    gap, body = 20, ""
    for i, plot in enumerate(plots):
        inner = re.sub(r"^<svg[^>]*>|</svg>$", "", plot)
        body += f'<g transform="translate(10,{10 + i * (height + gap):g})">{inner}</g>'
    total = len(plots) * (height + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 {total:g}" '
        f'font-family="system-ui, sans-serif"><style>{STYLE}</style>{body}</svg>\n'
    )
