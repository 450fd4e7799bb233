"""The reference of the command line: a page a verb, from its argparse parser."""

import argparse
import inspect
import re

from jaxir.cli.main import VERBS, make_parser


def _cell(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|*\[\]$])", r"\\\1", " ".join(text.split()))


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or action.dest.upper()
    if action.choices:
        name = ", ".join(map(str, action.choices))
    names = name if isinstance(name, tuple) else (name,)
    return " ".join(f"`{part}`" for part in names)


def _row(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    names = " ".join(f"`{name}`" for name in action.option_strings)
    if not names:
        name = action.metavar or action.dest
        names = f"`{name}`"
    value = _value(action) if action.option_strings else ""
    if action.nargs in ("+", "*"):
        value += " …"
    if action.nargs == "?" and action.option_strings:
        value += ", or alone"
    told = formatter._expand_help(action) if action.help else ""
    if action.required and action.option_strings:
        told = f"**required**; {_cell(told)}"
    else:
        told = _cell(told)
    if isinstance(action, argparse._AppendAction):
        told += " (may be given several times)" if "several" not in told else ""
    return f"| {names} | {value} | {told} |"


def described(text: str) -> str:
    """A verb's description: its indented examples become blocks of code."""
    lines: list[str] = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        rows = part.splitlines()
        if all(row.startswith(" ") for row in rows):
            rows = inspect.cleandoc("\n" + part).splitlines()
            language = "bash" if rows[0].startswith("jaxir") else "text"
            lines += [f"```{language}", *rows, "```", ""]
        else:
            escaped = re.sub(r"(``.*?``)|([*\[\]$<])", _escape, part, flags=re.S)
            lines += [escaped, ""]
    return "\n".join(lines)


def _escape(match: re.Match[str]) -> str:
    return match[1] or ("&lt;" if match[2] == "<" else f"\\{match[2]}")


def page_of(verb: str) -> str:
    """The file of a verb's page; no verb's is ``index.md``."""
    return f"jaxir_{verb}.md"


def verb_page(verb: str) -> str:
    """A verb's page: description, usage, and every option.

    Args:
      verb: of :data:`jaxir.cli.main.VERBS`.
    """
    parser = make_parser(verb)
    formatter = argparse.HelpFormatter(parser.prog, width=78)
    usage = formatter._format_usage(parser.usage, parser._actions,
                                    parser._mutually_exclusive_groups, "")  # fmt: skip
    lines = [f"# jaxir {verb}", "", described(parser.description or ""), "## Usage"]
    lines += ["", "```text", usage.strip(), "```", ""]
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        title = (group.title or "").replace("(Algorithm 1 of the paper)", "")
        lines += [f"## {title.strip().capitalize()}", ""]
        if group.description:
            lines += [_cell(group.description), ""]
        lines += ["| option | value | |", "|---|---|---|"]
        lines += [_row(action, formatter) for action in group._group_actions] + [""]
    if parser.epilog:
        lines += [described(parser.epilog), ""]
    return "\n".join(lines)


def cli_pages() -> dict[str, str]:
    """The pages by their names: ``commands/index.md`` and one a verb."""
    index = [
        "# Commands", "",
        "`jaxir VERB --help` prints what these pages say. Options may be written "
        "with `_` or `-`. Every verb takes `--quiet`, and those that write a result "
        "can print it as JSON (`--json`).", "",
        "| verb | |", "|---|---|",
    ]  # fmt: skip
    index += [
        f"| [`jaxir {v}`]({page_of(v)}) | {_cell(about)} |"
        for v, about in VERBS.items()
    ]
    index += [
        "", "## Exit codes", "",
        "| code | |", "|---|---|", "| 0 | success |",
        "| 2 | a user's mistake, told in one line: where, what was found, what was "
        "expected, the remedy |",
        "| 1 | a fault of jaxir, with its traceback |", "| 130 | interrupted |", "",
        "`jaxir train` that is stopped by a signal saves and leaves with 128 and the "
        "signal's number.", "",
    ]  # fmt: skip
    pages = {"commands/index.md": "\n".join(index)}
    return pages | {f"commands/{page_of(verb)}": verb_page(verb) for verb in VERBS}
