"""A user's own documents: folders of texts, tables and JSON, and their mistakes."""

import gzip
import json

import pytest

from jaxir.data.formats import Doc
from jaxir.data.own_documents import Fields, own_documents
from jaxir.errors import InputError


def docs(*args, **options):
    return [found.doc for found in own_documents(*args, **options)]


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    (folder / "deep" / ".git").mkdir(parents=True)
    files = {
        "rivers.md": "# Rivers\r\n\r\nThey carry clay.\r\n\r\n## Deltas\r\n\r\nEnds.",
        "deep/old_engine-notes.txt": "\ufeffAn engine burns fuel.\n\nIt turns.\n",
        "deep/.git/README.md": "not a note",
        ".hidden.txt": "not a note",
        "scan.pdf": "%PDF",
        "UPPER.TXT": "Loud.",
        "empty.md": " \n",
    }
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def test_a_folder_of_texts(notes):
    found = {doc.doc_id: (doc.title, doc.text) for doc in docs(notes)}
    assert found == {
        "UPPER.TXT": ("UPPER", "Loud."),
        "deep/old_engine-notes.txt": (
            "old engine notes", "An engine burns fuel.\n\nIt turns.",
        ),
        "empty.md": ("", ""),
        "rivers.md": ("Rivers", "They carry clay.\n\nDeltas\n\nEnds."),
    }  # fmt: skip


def test_a_folder_in_passages(notes):
    found = docs(notes, words=4)
    assert [doc for doc in found if doc.text] == [
        Doc("UPPER.TXT", "UPPER", "Loud."),
        Doc("deep/old_engine-notes.txt#1", "old engine notes", "An engine burns fuel."),
        Doc("deep/old_engine-notes.txt#2", "old engine notes", "It turns."),
        Doc("rivers.md#1", "Rivers", "They carry clay."),
        Doc("rivers.md#2", "Rivers: Deltas", "Ends."),
    ]


CSV = (
    "\ufeffsku;Name;description;price\r\n"
    'A1;Bolt;"Holds ""it"",\n\nall";3\r\n'
    "\r\n;;;\r\nA2;;x;\r\n"
)
EXPECTED = [("Bolt", 'Holds "it",\n\nall'), ("", "x")]


def test_a_table(tmp_path):
    path = tmp_path / "parts.csv"
    path.write_bytes(CSV.encode())
    found = list(own_documents(path, fields=Fields(id="sku")))
    assert [doc.doc_id for _, doc in found] == ["A1", "A2"]
    assert [(doc.title, doc.text) for _, doc in found] == EXPECTED
    # a cell in quotes holds lines: the second row begins on the seventh
    assert [where for where, _ in found] == [f"{path}:2", f"{path}:7"]
    assert [doc.doc_id for doc in docs(path)] == ["1", "2"]
    both = Fields("sku", "sku", ("Name", "price"))
    assert docs(path, fields=both)[0] == Doc("A1", "A1", "Bolt\n3")
    assert [doc.doc_id for doc in docs(path, words=2)] == ["1#1", "1#2", "2"]


@pytest.mark.parametrize(
    ("name", "gap"), [("a.csv", ","), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.CSV", ";")]
)
def test_delimiters_and_gzip(tmp_path, name, gap):
    text = f"id{gap}text\n1{gap}one two\n"
    (tmp_path / name).write_text(text)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert docs(tmp_path / name) == docs(packed) == [Doc("1", "", "one two")]


def test_a_cell_longer_than_the_csv_module_likes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1," + "x" * 200_000 + "\n")
    assert len(docs(path)[0].text) == 200_000


def test_json(tmp_path):
    records = [
        {"id": 7, "subject": None, "Body": ["one", "two"]},
        {"id": "8", "subject": "Eight", "Body": 8.5, "more": {}},
    ]
    expected = [Doc("7", "", "one\ntwo"), Doc("8", "Eight", "8.5")]
    whole, lines = tmp_path / "a.json", tmp_path / "a.ndjson"
    whole.write_text(json.dumps(records, indent=1))
    lines.write_text("\n\n".join(map(json.dumps, records)))
    assert docs(whole) == docs(lines) == expected


CUT = gzip.compress(b"id,text\n1,x\n" * 9, mtime=0)[:-9]
PLACED = [
    ("a.pdf", b"%PDF", r"a file that ends in '\.pdf'; expected a folder of"),
    ("a.csv", b"", "no header line; expected names of columns"),
    (
        "a.csv",
        b"id,name\n1,x\n",
        r"a\.csv:2: nothing that is called text, contents, .*; "
        r"expected one of: id, name; name it, as with --text COLUMN",
    ),
    (
        "a.csv",
        b"id,text\n\n1,x,y\n",
        r"a\.csv:3: 3 columns; expected 2, as in the header; put a cell that holds ','",
    ),
    ("a.csv", b'id,text\n1,x\n2,"y\n3,z\n', r"a\.csv:3: not a row of a table \(unex"),
    ("a.csv", b"text,text\n", "column 'text' twice; expected names that differ"),
    ("a.csv", b"id,text\n1,\xff\n", r"a\.csv:2: byte 0xff is not UTF-8"),
    ("a.csv", b'id,text\n"a\tb",x\n', r"a\.csv:2: 'id' is 'a\\tb'; expected an id"),
    ("a.csv.gz", CUT, "gzip stream is damaged"),
    ("a.jsonl", b'{"text": "x"', r"a\.jsonl:1: broken JSON"),
    ("a.jsonl", b'{"id": "", "text": "x"}', r"a\.jsonl:1: 'id' is ''; expected an id"),
    ("a.jsonl", b'{"text": {"x": 1}}', "'text' is .*; expected a text, number or tex"),
    ("a.jsonl", b'{"text": true}', "'text' is true; expected a text, number or texts"),
    ("a.json", b"[", r"a\.json: broken JSON .*; expected a list of objects"),
    ("a.json", b'{"text": "x"}', "a JSON dict; expected a list of objects"),
    ("a.json", b"[3]", r"a\.json\[0\]: a JSON int; expected an object"),
]


@pytest.mark.parametrize(("name", "content", "message"), PLACED)
def test_mistakes_name_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        docs(tmp_path / name)


def test_a_column_that_is_not_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,x\n")
    with pytest.raises(InputError, match="no 'sku'; expected one of: id, text; check"):
        docs(path, fields=Fields(id="sku"))


def test_mistakes_of_folders(notes, tmp_path):
    with pytest.raises(InputError, match="absent: no such file or folder; expected a"):
        docs(tmp_path / "absent")
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(InputError, match=r"no \.txt or \.md files in it or below"):
        docs(bare)
    with pytest.raises(InputError, match="columns named for a folder of texts"):
        docs(notes, fields=Fields(title="name"))
    (notes / "latin.txt").write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(InputError, match=r"latin\.txt:2: byte 0xe9 is not UTF-8; exp"):
        docs(notes)
    (notes / "latin.txt").rename(notes / " spaced.txt")
    with pytest.raises(InputError, match=r"'file name' is ' spaced\.txt'"):
        docs(notes)
