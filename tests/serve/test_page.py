"""The page of ``jaxir serve``: in a real browser, against a dozen documents."""

import contextlib
import json
import re
import subprocess
import sys

import pytest
from browser import find_chromium, open_browser
from fake_service import DOCUMENTS, HOSTILE, INDEXES, KEY, PAGE, fake_service, hits_of

from jaxir.cli.main import main
from jaxir.style import STYLE

QUERY = "host city of the summer olympics"
PAIR = f"q={QUERY}&a=bm25&b=sparse".replace(" ", "+")
BOTH = "document.querySelectorAll('.hits').length === 2"
ENTER = ("Enter", 13, "\r")
DOWN, UP, LEFT, RIGHT = (("ArrowDown", 40), ("ArrowUp", 38), ("ArrowLeft", 37),
                         ("ArrowRight", 39))  # fmt: skip


# --- The files, without a browser -----------------------------------------------------


def test_nothing_is_inserted_as_html():
    scripts = "".join(path.read_text() for path in PAGE.glob("*.js"))
    for forbidden in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
        "new Function", "DOMParser", "createContextualFragment", "srcdoc",
    ):  # fmt: skip
        assert forbidden not in scripts


def test_nothing_is_inline_or_from_elsewhere():
    page = (PAGE / "index.html").read_text()
    assert "<style" not in page
    assert not re.search(r"\s(style|on\w+)=", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    for path in PAGE.iterdir():
        addresses = re.findall(r"https?://[^\s\"']+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path


def test_what_the_page_names_is_in_the_package():
    page = (PAGE / "index.html").read_text()
    names = set(re.findall(r'"static/([^"]+)"', page))
    for path in PAGE.glob("*.js"):
        names |= set(re.findall(r'from "\./([^"]+)"', path.read_text()))
    assert names | {"index.html"} == {path.name for path in PAGE.iterdir()}


def test_palette_is_the_reports():
    def palettes(sheet):
        return [
            dict(re.findall(r"--([\w-]+): (#\w+);", block))
            for block in re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
        ]

    ours = palettes((PAGE / "page.css").read_text())
    reports = palettes(STYLE)
    assert len(ours) == len(reports) == 2
    for mine, theirs in zip(ours, reports, strict=True):
        assert theirs.items() <= mine.items()


# --- In the browser -------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium on this machine")
    with open_browser(command) as browser:
        yield browser


@pytest.fixture(scope="module")
def server():
    with fake_service() as running:
        yield running


@pytest.fixture
def service(server):
    server.reset()
    yield server
    server.released.set()


@pytest.fixture
def page(chromium, service):
    """``page(state)`` opens the page; what it complains about fails the test."""
    chromium.log.clear()
    chromium.window(1440)

    def visit(state="", until=BOTH):
        chromium.open(f"{service.url}#{state}")
        chromium.wait(until)
        return chromium

    yield visit
    chromium.evaluate("sessionStorage.clear()")
    said = [line for line in chromium.log if "Failed to load resource" not in line]
    assert said == []


def texts(browser, selector):
    return browser.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        ".map((node) => node.textContent)"
    )


def answers(index, **changes):
    return hits_of({"query": QUERY, "index": index, "k": 10} | changes)


def test_first_sight_says_what_is_served(page, service):
    browser = page("", "document.querySelector('.served')")
    assert texts(browser, ".served tbody th") == [index["name"] for index in INDEXES]
    assert texts(browser, "#facts") == ["3 systems · 10 documents"]
    assert browser.evaluate("document.activeElement.id") == "query"
    assert service.requests == []


def test_two_systems_side_by_side(page, service):
    browser = page(PAIR)
    for side, index in (("a", "bm25"), ("b", "sparse")):
        hits = answers(index)
        assert texts(browser, f".{side} h3") == [hit["title"] for hit in hits]
        shown = [
            text.removeprefix("score ") for text in texts(browser, f".{side} .score")
        ]
        assert [float(text) for text in shown] == pytest.approx(
            [hit["score"] for hit in hits], rel=1e-3
        )
    assert texts(browser, ".column-head .facts") == [
        "10 documents · 13 ms", "10 documents · sparse-inference-free · 4.3 ms"
    ]  # fmt: skip
    asked = {"query": QUERY, "k": 10, "return_documents": True}
    by_index = {request["index"]: request for request in service.requests}
    assert by_index == {
        "bm25": asked | {"index": "bm25"},
        "sparse": asked | {"index": "sparse", "explain": True},
    }
    assert texts(browser, "#status") == ["10 results from bm25, 10 results from sparse"]
    assert all(QUERY.split()[0] not in path for path in service.paths)


def test_one_system(page, service):
    browser = page("q=marathon&a=fine-tuned", "document.querySelector('.hits')")
    assert [request["index"] for request in service.requests] == ["fine-tuned"]
    assert texts(browser, ".move, .links, .tabs, .summary") == []
    assert browser.evaluate("document.querySelector('#b').value") == ""


def test_query_words_are_marked(page):
    browser = page(PAIR)
    marks = texts(browser, '.a [data-doc="host-class"] mark')
    assert marks[:2] == ["Olympic", "Host"]  # parts of OlympicHostRegistry
    assert {"host", "city"} <= set(marks)
    assert set(texts(browser, '.a [data-doc="oly-cities"] .snippet mark')) == {
        "Olympic", "host", "cities", "summer", "Olympics", "city", "hosted"
    }  # fmt: skip
    assert not {"of", "the"} & set(texts(browser, ".hit mark"))
    assert texts(browser, '.a [data-doc="dns"] mark') == ["host"]  # not Hostname


def test_moves_are_told(page):
    browser = page("q=olympics+host+bread&a=bm25&b=fine-tuned&k=5")
    request = {"query": "olympics host bread", "k": 5}
    ranks = {
        side: {hit["doc_id"]: hit["rank"] for hit in hits_of(request | {"index": name})}
        for side, name in (("a", "bm25"), ("b", "fine-tuned"))
    }
    both = ranks["a"].keys() & ranks["b"].keys()
    assert 0 < len(both) < 5
    assert any(ranks["a"][doc] != ranks["b"][doc] for doc in both)
    for side, other in (("a", "b"), ("b", "a")):
        wanted = []
        for doc, rank in ranks[side].items():
            there = ranks[other].get(doc)
            sign = None if there is None else (there > rank) - (there < rank)
            arrow = {None: "", 1: "▲ ", -1: "▼ ", 0: "="}[sign]
            gap = str(abs(there - rank)) if sign else ""
            wanted.append("only here" if there is None else f"{there}{arrow}{gap}")
        assert texts(browser, f".{side} .move:not(.legend .move)") == wanted
    lines = "document.querySelectorAll('.links path').length"
    browser.wait(f"{lines} === {len(both)}")  # drawn with the next frame
    same = sum(ranks["a"][doc] == ranks["b"][doc] for doc in both) or "none"
    assert texts(browser, ".summary p")[0] == (
        f"{len(both)} of 5 documents in both lists, {same} at the same rank."
    )
    browser.evaluate("document.querySelector('.b button.move').click()")
    here = "document.activeElement"
    assert browser.evaluate(f"{here}.closest('.column').classList.contains('a')")
    assert browser.evaluate("document.querySelectorAll('.hit.lit').length") == 2


def test_contributions_of_tokens(page):
    browser = page(PAIR)
    hits = answers("sparse", explain=True)
    most = max(match["score"] for hit in hits for match in hit["matches"])
    first = hits[0]["matches"]
    assert texts(browser, ".b .hit:first-child .amount code") == [
        match["token"] for match in first[:3]
    ]
    widths = browser.evaluate(
        "[...document.querySelectorAll('.b .hit:first-child .bar span')]"
        ".map((bar) => bar.offsetWidth / bar.parentNode.offsetWidth)"
    )
    assert widths == pytest.approx([m["score"] / most for m in first[:3]], abs=0.02)
    browser.evaluate("document.querySelector('.b .weigh').click()")
    rows = browser.evaluate(
        "[...document.querySelectorAll('.b .why tbody tr')]"
        ".map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    assert [row[0] for row in rows] == [match["token"] for match in first]
    for row, match in zip(rows, first, strict=True):
        names = ("query_weight", "doc_weight", "score")
        assert [float(cell) for cell in row[1:]] == pytest.approx(
            [match[name] for name in names], rel=5e-3
        )
    total = float(texts(browser, ".b .why tfoot td")[0])
    assert total == pytest.approx(hits[0]["score"], rel=1e-3)
    assert browser.evaluate("document.querySelector('.a .bars')") is None
    caption, heads = texts(browser, ".why caption"), texts(browser, ".why thead th")
    assert caption == [f"What each token adds to the score of {hits[0]['title']}"]
    assert heads == ["Token", "Query", "Document", "Product"]


def test_expanded_tokens_are_marked_apart(page):
    browser = page(PAIR)
    kinds = browser.evaluate(
        """import('/static/words.js').then((w) => {
          const stems = w.queryStems('rain in Spain');
          const tokens = ['weather', '##ing', 'Ġwet'].map((token) => ({token}));
          const others = w.tokenStems(tokens);
          return w.findMatches('Rainy weather, raining in Spain: wet', stems, others)
            .map((m) => [m.start, m.exact]);
        })"""
    )
    assert kinds == [[6, False], [15, True], [26, True], [33, False]]


def test_snippets_show_the_words_and_cut_no_character(page):
    browser = page(PAIR)
    found = browser.evaluate(
        """import('/static/words.js').then((w) => {
          const text = '😀'.repeat(400) + ' rain ' + 'z '.repeat(900) + 'Spain '
            + '👩‍👩‍👧'.repeat(99);
          const stems = w.queryStems('the rain in Spain');
          const parts = w.fragments(text, w.findMatches(text, stems));
          return parts.map(({start, end}) => text.slice(start, end));
        })"""
    )
    assert len(found) == 2
    assert "rain" in found[0]
    assert "Spain" in found[1]
    assert sum(map(len, found)) <= 300
    for part in found:
        part.encode()  # half of a pair would raise
        assert "\ud83d" not in part


@pytest.mark.parametrize(
    ("query", "text", "marked"),
    [
        ("東京 オリンピック", "1964年の東京オリンピックは", ["東京", "オリンピック"]),
        ("ÉCOLE", "une ecole, des écoles", ["ecole", "écoles"]),
        ("baking", "She baked and bakes; a baker", ["baked", "bakes"]),
        ("the who", "The Who played", ["The", "Who"]),
        ("c++ .* [", "c++ and (.*) [x", ["c"]),
        ("get help", "def _get_helpString(HTTPServer)", ["get", "help"]),
    ],
)
def test_matching_words(page, query, text, marked):
    browser = page(PAIR)
    given = json.dumps([query, text])
    assert marked == browser.evaluate(
        f"""import('/static/words.js').then((w) => {{
          const [query, text] = {given};
          return w.findMatches(text, w.queryStems(query))
            .map((m) => text.slice(m.start, m.end));
        }})"""
    )


def test_rerank_is_offered_where_there_is_a_reranker(page, service):
    browser = page(PAIR)
    shown = (
        "['a', 'b'].map((s) => !document.getElementById(`rerank-${s}-label`).hidden)"
    )
    assert browser.evaluate(shown) == [True, False]
    service.requests.clear()
    browser.evaluate("document.getElementById('rerank-a').click()")
    browser.wait("document.querySelector('h2 small') && " + BOTH)
    asked = {request["index"]: request.get("rerank") for request in service.requests}
    assert asked == {"bm25": True, "sparse": None}
    wanted = [hit["title"] for hit in answers("bm25", rerank=True)]
    assert texts(browser, ".a h3") == wanted
    assert "ra=1" in browser.evaluate("location.hash")


def test_the_address_holds_the_state(page):
    browser = page("", "document.querySelector('.served')")
    browser.type("tokyo games")
    browser.press(*ENTER)
    browser.wait(BOTH)
    first = browser.evaluate("location.hash")
    assert first == "#q=tokyo+games&a=bm25&b=sparse"
    browser.evaluate(
        "const b = document.getElementById('b'); b.value = 'fine-tuned';"
        "b.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    fine = "document.querySelectorAll('h2')[1].textContent === 'fine-tuned'"
    browser.wait(f"{fine} && {BOTH}")
    browser.evaluate("history.back()")
    browser.wait(
        f"document.querySelectorAll('h2')[1].textContent === 'sparse' && {BOTH}"
    )
    assert browser.evaluate("location.hash") == first
    assert browser.evaluate("document.title") == "tokyo games – jaxir search"
    browser.evaluate("history.back()")
    browser.wait("document.querySelector('.served')")
    assert browser.evaluate("document.getElementById('query').value") == ""


def test_a_link_to_what_is_not_served_any_more(page):
    browser = page("q=host&a=gone&b=also-gone&k=-3", "document.querySelector('.hits')")
    assert browser.evaluate("document.getElementById('a').value") == "bm25"
    assert browser.evaluate("document.getElementById('b').value") == ""
    assert browser.evaluate("document.getElementById('k').value") == "10"


def test_keyboard(page):
    browser = page(PAIR)
    here = "document.activeElement"
    at = f"[{here}.closest('.column')?.className, {here}.dataset.doc]"
    left = [hit["doc_id"] for hit in answers("bm25")]
    browser.evaluate(f"{here}.blur()")
    browser.press("/", 191, "/")
    assert browser.evaluate(f"{here}.id") == "query"
    browser.press(*DOWN)
    browser.press(*DOWN)
    assert browser.evaluate(at) == ["column a", left[1]]
    browser.press(*RIGHT)
    assert browser.evaluate(at) == ["column b", left[1]]
    browser.press(*LEFT)
    browser.press(*ENTER)
    selector = f'.a [data-doc="{left[1]}"] .whole'
    assert texts(browser, selector) == [DOCUMENTS[left[1]][1]]
    browser.press(*ENTER)
    assert texts(browser, selector) == []
    browser.press(*UP)
    browser.press(*UP)
    assert browser.evaluate(f"{here}.id") == "query"
    browser.press(*DOWN)
    browser.press("Escape", 27)
    assert browser.evaluate(f"{here}.id") == "query"
    assert browser.evaluate("document.getElementById('query').value") == QUERY


def test_hostile_documents_are_shown_as_text(page):
    browser = page("q=hostile&a=bm25&b=sparse")
    assert browser.evaluate("window.hacked") is None
    tags = "script, img, b, style, a, iframe"
    assert (
        browser.evaluate(f"document.querySelectorAll('.hit :is({tags})').length") == 0
    )
    title = {name: title for name, title, _ in HOSTILE}
    for name in ("<img src=x onerror=alert(1)>", "rtl", "emoji", "zalgo"):
        selector = f".a [data-doc={json.dumps(name)}] h3"
        assert texts(browser, selector) == [title[name]]
    assert texts(browser, '.a [data-doc="empty"] h3') == ["empty"]
    assert texts(browser, '.a [data-doc="no-text"] .snippet') == [
        "The service holds no text of it."
    ]
    assert texts(browser, '.a [data-doc="controls"] h3') == ["nul \ufffd bell \ufffd"]
    assert max(map(len, texts(browser, ".hit .snippet"))) < 400
    long = '.a [data-doc="long"]'
    assert len(texts(browser, f"{long} h3")[0]) < 200
    browser.evaluate(f"document.querySelector('{long} .toggle').click()")
    assert len(texts(browser, f"{long} .whole")[0]) < 21_000
    browser.evaluate(f"document.querySelector('{long} .whole button').click()")
    assert len(texts(browser, f"{long} .whole")[0].strip()) == 100_008


def test_nothing_found(page):
    browser = page("q=nothing&a=bm25", "document.querySelector('.panel')")
    assert texts(browser, ".panel-title") == ["Nothing found"]


def test_one_system_fails_alone(page):
    both = "document.querySelector('.panel') && document.querySelector('.hits')"
    browser = page("q=broken+olympics&a=bm25&b=sparse", both)
    assert texts(browser, ".b .panel p")[:2] == [
        "The service failed", "the search failed; its request id is 4f2c"
    ]  # fmt: skip
    assert len(texts(browser, ".a .hit")) > 3
    assert texts(browser, ".panel [role=alert], .panel[role=alert]")
    assert "sparse failed" in texts(browser, "#status")[0]


def test_a_service_that_is_gone(page):
    browser = page("q=gone&a=bm25", "document.querySelector('.panel')")
    assert texts(browser, ".panel-title") == ["The service does not answer"]


def test_a_busy_service_is_asked_again(page, service):
    service.busy = 1
    browser = page("q=busy+host&a=bm25", "document.querySelector('.panel')")
    assert texts(browser, ".panel p")[:2] == [
        "The service is busy", "the queue of 64 requests is full"
    ]  # fmt: skip
    assert "Trying again in" in texts(browser, ".panel")[0]
    browser.wait("document.querySelector('.hits')")
    assert len(service.requests) == 2


def test_a_slow_search_is_replaced_by_the_next(page, service):
    browser = page("q=slow+host&a=bm25&b=sparse", "document.querySelector('.ghost')")
    busy = "document.querySelectorAll('[aria-busy=true]').length"
    assert browser.evaluate(busy) == 2
    assert texts(browser, "#status") == ["Searching"]
    browser.evaluate("location.hash = '#q=bread&a=bm25'")
    browser.wait("document.querySelectorAll('.hits').length === 1")
    service.released.set()
    browser.evaluate("new Promise((done) => setTimeout(done, 100))")
    assert texts(browser, ".hit h3") == ["Baking bread"]
    assert browser.evaluate(busy) == 0


def test_an_api_key_is_asked_for_and_kept_in_the_tab(page, service):
    service.asks_key = True
    asked = "document.activeElement.id === 'key'"
    browser = page("q=host&a=bm25", asked)
    titles = [texts(browser, ".panel-title")]
    browser.type("wrong")
    browser.press(*ENTER)
    browser.wait(
        "document.querySelector('.panel-title').textContent.includes('accept')"
    )
    titles.append(texts(browser, ".panel-title"))
    assert titles == [
        ["This service asks for an API key"],
        ["The service did not accept this API key"],
    ]  # fmt: skip
    browser.type("no spaces in keys")
    browser.press(*ENTER)
    assert "ASCII" in texts(browser, "#key-note")[0]
    browser.evaluate("document.getElementById('key').value = ''")
    browser.type(KEY)
    browser.press(*ENTER)
    browser.wait("document.querySelector('.hits')")
    stored = "[JSON.stringify(sessionStorage).includes('%s'), localStorage.length]"
    assert browser.evaluate(stored % KEY) == [True, 0]
    assert KEY not in browser.evaluate("location.href + document.body.innerHTML")
    browser.evaluate("document.getElementById('forget').click()")
    browser.wait(asked)
    assert browser.evaluate(stored % KEY) == [False, 0]


def test_nothing_served(page, service):
    service.indexes = []
    browser = page("", "document.querySelector('.panel')")
    assert texts(browser, ".panel-title") == ["Nothing is served yet"]


def test_a_service_that_starts_is_waited_for(page, service):
    service.indexes, service.ready = [], False
    browser = page("", "document.querySelector('.panel')")
    assert texts(browser, ".panel p")[:2] == [
        "The service is not ready",
        "It is opening its indexes.",
    ]
    service.indexes = INDEXES
    browser.wait("document.querySelector('.served')")


def test_an_index_name_is_text_too(page, service):
    evil = "<b>x</b>" * 30
    service.indexes = [INDEXES[0] | {"name": evil, "model": evil, "kind": evil}]
    browser = page("", "document.querySelector('.served')")
    assert texts(browser, ".served th bdi") == [evil]
    browser.window(360)
    assert browser.evaluate("document.documentElement.scrollWidth") == 360


STATES = {
    "landing": ("", "document.querySelector('.served')"),
    "pair": (PAIR, BOTH),
    "one": ("q=host+city&a=sparse", "document.querySelector('.hits')"),
    "hostile": ("q=hostile&a=bm25&b=sparse", BOTH),
    "nothing": ("q=nothing&a=bm25", "document.querySelector('.panel')"),
    "broken": (
        "q=broken&a=sparse&b=fine-tuned",
        "document.querySelectorAll('.panel').length === 2",
    ),
}

# Texts whose contrast to what lies behind them is below 4.5 (WCAG 2.2, 1.4.3).
FAINT = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    seen += 1;
    const color = channels(getComputedStyle(node).color).slice(0, 3);
    const [x, y] = [color, behind(node)].map(light);
    const contrast = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    const name = node.className || node.tagName;
    if (contrast < 4.5) found.add(`${name} ${contrast.toFixed(2)}`);
  }
  return [seen > 10, [...found]];
})()"""


@pytest.mark.parametrize("state", STATES)
def test_fits_and_can_be_read(page, state):
    browser = page(*STATES[state])
    for button in (".toggle", ".weigh"):
        browser.evaluate(f"document.querySelector('{button}')?.click()")
    for width in (360, 1440):
        for dark in (False, True):
            browser.window(width, dark=dark)
            shown = browser.evaluate(
                "matchMedia('(prefers-color-scheme: dark)').matches"
            )
            assert shown is dark
            wide = "[document.documentElement, document.body].map((n) => n.scrollWidth)"
            assert max(browser.evaluate(wide)) <= width
            assert browser.evaluate(FAINT) == [True, []]


def test_controls_have_names(page):
    browser = page(PAIR)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "combobox", "searchbox", "checkbox", "link", "list", "table"}
    seen = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in wanted:
            continue
        seen.add(role)
        assert node["name"]["value"].strip(), node
    assert {"button", "combobox", "searchbox", "checkbox", "list"} <= seen


def test_narrow_window_shows_one_system_at_a_time(page):
    browser = page(PAIR)
    browser.window(360)
    shown = (
        "['a', 'b'].map((s) => document.querySelector(`.column.${s}`).offsetWidth > 0)"
    )
    assert browser.evaluate(shown) == [True, False]
    browser.evaluate("document.querySelectorAll('.tabs button')[1].click()")
    assert browser.evaluate(shown) == [False, True]
    pressed = "[...document.querySelectorAll('.tabs button')].map((b) => b.ariaPressed)"
    assert browser.evaluate(pressed) == ["false", "true"]


@pytest.mark.parametrize("width", [360, 768, 1000, 1260, 1440])
def test_tokens_can_be_read_in_every_window(page, width):
    browser = page(PAIR)
    browser.window(width)
    if width < 760:
        browser.evaluate("document.querySelectorAll('.tabs button')[1].click()")
    cut = browser.evaluate(
        "[...document.querySelectorAll('.column.b .bars code')].filter((node) => "
        "node.scrollWidth > node.clientWidth && node.clientWidth < 50).length"
    )
    assert cut == 0
    assert texts(browser, ".column.b .bars code")


def test_long_names_break_at_their_signs(page):
    browser = page(PAIR)
    parts = browser.evaluate(
        """import('/static/hits.js').then((hits) => {
          const hit = {rank: 1, doc_id: '1', title: 'a.module.of_functions'};
          const answer = {hits: [hit], system: {label: 's'}};
          const list = hits.hitList('a', answer, null, 'functions', () => 0);
          return list.querySelector('h3').innerHTML;
        })"""
    )
    assert parts == "a.<wbr>module.<wbr>of_<mark>functions</mark>"


# --- The service itself ---------------------------------------------------------------


@contextlib.contextmanager
def serving(*arguments):
    """``jaxir serve`` in a process of its own; yields its address."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "jaxir", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                heard = json.loads(line)
                if heard["event"] == "listening":
                    yield f"http://{heard['host']}:{heard['port']}/"
                    break
        finally:
            process.terminate()


@pytest.mark.slow
def test_against_the_service(chromium, tiny_collection, tiny_tokenizer, tmp_path):
    tokens = ["--tokenizer", str(tiny_tokenizer)]
    for name, more in (("words", []), ("tokens", tokens)):
        to = ["--index", str(tmp_path / name), "--collection", str(tiny_collection)]
        assert main(["index", "--model", "bm25", *to, *more]) == 0
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    indexes = [f"--index={name}={tmp_path / name}" for name in ("words", "tokens")]
    others = [f"--texts={tiny_collection}", f"--api_keys={keys}", "--no_warm_up"]
    with serving(*indexes, *others) as url:
        browser = chromium
        browser.log.clear()
        browser.window(1440)
        browser.open(f"{url}#q=flour+and+yeast&a=words&b=tokens&k=3")
        browser.wait("document.activeElement.id === 'key'")
        browser.type(KEY)
        browser.press(*ENTER)
        browser.wait(BOTH)
        for side in ("a", "b"):
            assert texts(browser, f".{side} h3") == ["bread"] * 3
            assert {"flour", "yeast"} <= set(texts(browser, f".{side} mark"))
        assert {"flour", "yeast"} <= set(texts(browser, ".b .amount code"))
        assert texts(browser, ".a .bars") == []
        browser.evaluate("document.querySelector('.b .weigh').click()")
        total = float(texts(browser, ".b tfoot td")[0])
        shown = texts(browser, ".b .score")[0].removeprefix("score ")
        assert total == pytest.approx(float(shown), rel=2e-3)
    said = [line for line in browser.log if "Failed to load resource" not in line]
    assert said == []
