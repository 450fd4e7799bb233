"""``jaxir data import``: own documents taken in, as a user types it."""

import json

import pytest

from jaxir.cli.main import main
from jaxir.data.collection import open_collection


@pytest.fixture
def jaxir(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own; exit code, output and error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main(["data", "import", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_folder(jaxir, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# A\n\nOne two.\n\n## B\n\nThree four.")
    for _ in range(2):  # what it wrote before is replaced
        code, out, err = jaxir("notes", "--output", "c", "--words", 3)
        assert (code, err) == (0, "")
    assert "documents  2;" in out
    assert "no judgments" in out
    titles = [doc.title for doc in open_collection("c").docs]
    assert titles == ["A", "A: B"]
    assert main(["data", "beir", "c"]) == 0


def test_a_table(jaxir, tmp_path):
    (tmp_path / "a.csv").write_text("sku,what,how\nx,Bolt,holds\n")
    columns = ("--id", "sku", "--title", "what", "--text", "what", "how")
    code, out, _ = jaxir("a.csv", "--output", "c", *columns, "--json")
    assert code == 0
    assert json.loads(out)["num_docs"] == 1
    assert open_collection("c").docs[0] == ("x", "Bolt", "Bolt\nholds")


def test_mistakes_are_one_line(jaxir, tmp_path):
    code, out, err = jaxir("absent", "--output", "c")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "absent: no such file or folder; expected a folder of .txt" in err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    for output in ("notes", "notes/c"):
        code, _, err = jaxir("notes", "--output", output)
        assert code == 2
    assert "lies in notes; expected a place outside what is read" in err
    (tmp_path / "a.csv").write_text("text\nx\n")
    assert jaxir("a.csv", "--output", "notes")[0] == 2
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "precious"
