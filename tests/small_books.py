"""Small files of conditions for the tests of `jaxir.reproduce`."""

from pathlib import Path

from jaxir.reproduce.book import Book
from jaxir.reproduce.load import load_book

# Each step appends its name to `calls`, so that a test sees what ran.
SMALL = r'''
section = "Small numbers"

[measures.seconds]
judged = false

[modules]
no_such_package = "pip install nothing"

[steps.model]
run = """python -c "import sys; open(sys.argv[1], 'w').write('m'); \
    open('calls', 'a').write('model ')" model"""
minutes = 3

[steps."{name}.run"]
each.name = ["one", "two"]
each.value = ["0.5", "0.25"]
run = """python -c "import sys; assert open(sys.argv[1]).read() == 'm'; \
    open('calls', 'a').write('{name} '); open(sys.argv[2], 'w').write('{value}')" \
    model {name}.run"""

[steps."{name}.json"]
each.name = ["one", "two"]
run = """python -c "import json, sys; value = float(open(sys.argv[1]).read()); \
    print('a remark'); print(json.dumps(dict(share=value, seconds=9.0)))" {name}.run"""

[conditions."small-{name}"]
each.name = ["one", "two"]
each.expected = ["0.50", "0.40"]
row = "{name}"
read = "{name}.json"
tolerance = 0.01
expect = { share = "{expected} [0.1, 0.9]", seconds = "3.0" }
'''


def make_book(folder: Path, text: str = SMALL) -> Book:
    """The book of one file, written into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.toml").write_text(text)
    return load_book(folder)
