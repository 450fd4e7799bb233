"""Own documents as a collection, and titles as its queries."""

import pytest

from jaxir.data.collection import open_collection, write_beir
from jaxir.data.formats import Doc
from jaxir.data.import_documents import SPLITS, import_documents
from jaxir.errors import InputError


@pytest.fixture
def table(tmp_path):
    """``table(rows)``: a CSV file with the columns id, title and text."""

    def write(rows):
        path = tmp_path / "table.csv"
        lines = ["id,title,text", *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_documents_without_queries_are_a_collection(table, tmp_path, capsys):
    path = table([(1, "Bolt", "holds a wheel"), (2, "", ""), (3, "Nut", "")])
    imported = import_documents(path, tmp_path / "c")
    assert imported == (2, 1, 0, 0)
    assert "table.csv: 1 without a text left out" in capsys.readouterr().err
    collection = open_collection(tmp_path / "c")
    assert list(collection.docs) == [
        Doc("1", "Bolt", "holds a wheel"),
        Doc("3", "Nut", ""),
    ]
    check = collection.check()
    assert (check.num_docs, check.num_queries, check.splits) == (2, 0, {})
    again = open_collection(write_beir(collection, tmp_path / "again"))
    assert again.docs.fingerprint == collection.docs.fingerprint
    assert again.queries() == {}


def test_long_documents_are_told_of(table, tmp_path, capsys):
    path = table([(1, "Bolt", "word " * 201)])
    assert import_documents(path, tmp_path / "c").long == 1
    said = capsys.readouterr().err
    assert "1 of 1 documents have more than 200 words; " in said
    assert "--words 180 cuts them into passages" in said
    assert import_documents(path, tmp_path / "d", words=180) == (2, 0, 0, 0)
    assert open_collection(tmp_path / "d").docs[1].title == "Bolt"


def test_titles_become_queries(table, tmp_path):
    rows = [(i, f"title {i}", f"text {i}") for i in range(200)]
    rows += [(f"s{i}", "Shared  TITLE", "text") for i in range(2)]
    rows += [(f"b{i}", "boilerplate", "text") for i in range(6)]
    rows += [("bare", "", "text"), ("void", "nothing below", "")]
    imported = import_documents(table(rows), tmp_path / "c", title_queries=True)
    assert imported == (209, 1, 0, 201)
    collection = open_collection(tmp_path / "c")
    assert not any(doc.title for doc in collection.docs)
    assert collection.splits == sorted(name for name, _ in SPLITS)
    sizes = {}
    for split, share in SPLITS:
        queries, qrels = collection.queries(split), collection.qrels(split)
        assert queries.keys() == qrels.keys()
        sizes[split] = len(queries)
        assert abs(len(queries) / 201 - share) < 0.06
        for query_id, text in queries.items():
            wanted = ["s0", "s1"] if text[0] == "S" else [text.removeprefix("title ")]
            assert list(qrels[query_id]) == wanted
    assert sum(sizes.values()) == 201
    # a document more draws no other title anew
    import_documents(
        table([*rows, (999, "one more", "x")]), tmp_path / "d", title_queries=True
    )
    more = open_collection(tmp_path / "d")
    for split, _ in SPLITS:
        assert collection.queries(split).keys() <= more.queries(split).keys()


def test_mistakes(table, tmp_path):
    with pytest.raises(InputError, match=r"csv:3: id '1' again, first in .*csv:2; exp"):
        import_documents(table([(1, "", "x"), (1, "", "y")]), tmp_path / "c")
    with pytest.raises(InputError, match="no document with a text; expected at least"):
        import_documents(table([(1, "", "")]), tmp_path / "c")
    with pytest.raises(InputError, match="words: 0; expected at least 1"):
        import_documents(table([(1, "", "x")]), tmp_path / "c", words=0)
    with pytest.raises(
        InputError, match=r"1 titles, none of them in split '.*'; expect"
    ):
        import_documents(table([(1, "a", "x")]), tmp_path / "c", title_queries=True)
    assert not (tmp_path / "c").exists()
