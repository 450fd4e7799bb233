// The page: its state (kept in the address), requests, and the keyboard.
//
// The state stands after "#", which a browser never sends: queries stay out of the
// service's and any proxy's access log when a link is opened.

import { drawLinks, hitList, overlapSummary } from "./hits.js";
import { goTo, onKey, showSide, sideOf } from "./keyboard.js";
import { key, readIndexes, search } from "./service.js";
import { askForKey, troublePanel } from "./trouble.js";
import { columnHead, SVG, el, panel, plural, served, skeleton } from "./view.js";

const $ = (id) => document.getElementById(id);
const SIDES = ["a", "b"];
const DEPTHS = [5, 10, 20, 50, 100];
const SLOW_MS = 3000;

let indexes = [];
let state = { q: "", a: "", b: "", ra: false, rb: false, k: 10 };
let running = null; // the AbortController of what is under way
let timers = [];
let resizing = null;

// --- State and address ------------------------------------------------------------

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = new Set(indexes.map((index) => index.name));
  const k = Number.parseInt(given.get("k") ?? "", 10);
  const asked = given.has("a");
  state = {
    q: given.get("q") ?? "",
    a: known.has(given.get("a")) ? given.get("a") : (indexes[0]?.name ?? ""),
    b: known.has(given.get("b")) ? given.get("b") : asked ? "" : (indexes[1]?.name ?? ""),
    ra: given.get("ra") === "1",
    rb: given.get("rb") === "1",
    k: Number.isInteger(k) && k > 0 ? k : 10,
  };
}

function writeAddress() {
  const kept = new URLSearchParams();
  for (const name of ["q", "a", "b"]) if (state[name]) kept.set(name, state[name]);
  for (const name of ["ra", "rb"]) if (state[name]) kept.set(name, "1");
  if (state.k !== 10) kept.set("k", String(state.k));
  const hash = `#${kept}`;
  if (hash !== location.hash) history.pushState(null, "", hash);
}

function indexNamed(name) {
  return indexes.find((index) => index.name === name);
}

function systems() {
  return SIDES.filter((side) => state[side]).map((side) => {
    const index = indexNamed(state[side]);
    const rerank = state[`r${side}`] && Boolean(index.reranker);
    return { side, index, rerank, label: index.name + (rerank ? " + reranker" : "") };
  });
}

// --- Controls ---------------------------------------------------------------------

function fillControls() {
  const options = (none) => [
    ...(none ? [el("option", { value: "" }, "nothing")] : []),
    ...indexes.map((index) => el("option", { value: index.name }, index.name)),
  ];
  $("a").replaceChildren(...options(false));
  $("b").replaceChildren(...options(true));
  $("option-b").hidden = indexes.length < 2 && !indexes.some((index) => index.reranker);
  $("options").hidden = indexes.length === 0;
  const docs = new Set(indexes.map((index) => index.docs));
  const facts = [plural(indexes.length, "system")];
  if (docs.size === 1 && Number.isFinite([...docs][0]))
    facts.push(plural([...docs][0], "document"));
  $("facts").textContent = indexes.length ? facts.join(" · ") : "";
}

function showControls() {
  if ($("query").value !== state.q) $("query").value = state.q;
  const depths = [...new Set([...DEPTHS, state.k])].sort((x, y) => x - y);
  $("k").replaceChildren(...depths.map((k) => el("option", { value: k }, String(k))));
  $("k").value = String(state.k);
  for (const side of SIDES) {
    $(side).value = state[side];
    $(`rerank-${side}-label`).hidden = !indexNamed(state[side])?.reranker;
    $(`rerank-${side}`).checked = state[`r${side}`];
  }
  document.title = state.q ? `${state.q} – jaxir search` : "jaxir search";
  $("forget").hidden = !key.get();
}

function readControls() {
  state = {
    q: $("query").value.trim(),
    a: $("a").value,
    b: $("b").value,
    ra: $("rerank-a").checked,
    rb: $("rerank-b").checked,
    k: Number($("k").value),
  };
}

// --- Requests ---------------------------------------------------------------------

function stopAll() {
  running?.abort();
  timers.forEach(clearInterval);
  timers = [];
  resizing?.disconnect();
}

function keep(timer) {
  timers.push(timer);
}

function say(text) {
  $("status").textContent = text;
}

async function start(attempt = 0) {
  stopAll();
  running = new AbortController();
  const mine = running;
  try {
    indexes = await readIndexes(mine.signal);
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    showControls();
    if (error.status === 401) return say(askForKey($("results"), Boolean(key.get()), start));
    $("results").replaceChildren(troublePanel(error, start, attempt, keep));
    return;
  }
  if (mine !== running) return;
  fillControls();
  readAddress();
  run();
}

function run() {
  stopAll();
  showControls();
  if (!indexes.length) {
    $("results").replaceChildren(
      panel(
        "Nothing is served yet",
        "Start the service with an index:",
        el("p", {}, el("code", {}, "jaxir serve --index DIRECTORY")),
      ),
    );
    return;
  }
  if (!state.q) {
    say("");
    $("results").replaceChildren(served(indexes));
    return;
  }
  runSystems();
}

// --- Results ----------------------------------------------------------------------

async function runSystems() {
  running = new AbortController();
  const mine = running;
  const asked = systems();
  const { q: query, k } = state;
  const columns = asked.map((system) => {
    const body = el("div", { class: "column-body", "aria-busy": "true" }, skeleton());
    const node = el(
      "section",
      { class: `column ${system.side}`, "aria-label": system.label },
      columnHead(system.side, system, null),
      body,
    );
    return { system, node, body, answer: null, failed: null };
  });
  const overlap = el("p");
  const summary = el(
    "div",
    { class: "summary", hidden: true },
    overlap,
    el(
      "p",
      { class: "legend" },
      el("span", { class: "move" }, el("span", { class: "dot b" }), "rank in the other list"),
      el("span", {}, "▲ ▼ places higher, lower here"),
    ),
  );
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "links");
  svg.setAttribute("aria-hidden", "true");
  const pair = columns.length === 2;
  const grid = el("div", { class: pair ? "columns pair" : "columns", data: { shown: "a" } });
  grid.append(columns[0].node, ...(pair ? [svg, columns[1].node] : []));
  $("results").replaceChildren(...(pair ? [sideTabs(columns, grid), summary] : []), grid);
  say("Searching");
  const slow = () => {
    for (const note of grid.querySelectorAll(".slow")) note.hidden = false;
    if (grid.querySelector(".slow")) say("Still searching");
  };
  keep(setTimeout(slow, SLOW_MS));

  const askOne = async (column, attempt = 0) => {
    column.body.replaceChildren(skeleton());
    column.body.setAttribute("aria-busy", "true");
    column.failed = column.answer = null;
    try {
      const answer = await search({ ...column.system, query, k }, mine.signal);
      column.answer = { ...answer, system: column.system };
    } catch (error) {
      if (mine !== running || error.name === "AbortError") return;
      if (error.status === 401) {
        const had = Boolean(key.get());
        stopAll();
        say(askForKey($("results"), had, start));
        return;
      }
      column.failed = error;
      column.body.replaceChildren(
        troublePanel(error, (next) => askOne(column, next), attempt, keep),
      );
    }
    if (mine !== running) return;
    column.body.setAttribute("aria-busy", "false");
    show();
  };

  // Both columns are drawn again as one answers: ranks are told in terms of the other.
  const show = () => {
    const before = document.activeElement?.closest?.(".hit");
    const kept = before && { side: sideOf(before), doc: before.dataset.doc };
    for (const [i, column] of columns.entries()) {
      const { answer, system } = column;
      if (!answer) continue;
      column.node.firstChild.replaceWith(columnHead(system.side, system, answer.took));
      const other = pair ? columns[1 - i].answer : null;
      if (column.body.firstChild?.className === "hits" && !other) continue;
      column.body.replaceChildren(
        answer.hits.length
          ? hitList(system.side, answer, other, query, (doc) => goTo(SIDES[1 - i], doc))
          : panel(
              "Nothing found",
              "This system has no result for the query. Try other words, or another system.",
            ),
      );
    }
    const [left, right] = columns.map((column) => column.answer);
    if (pair && left && right) {
      summary.hidden = !(left.hits.length && right.hits.length);
      overlap.textContent = overlapSummary(left, right);
      summary.lastChild.hidden = !grid.querySelector("button.move");
      followLinks(
        grid,
        svg,
        columns.map((column) => column.body),
      );
    }
    const first = grid.querySelector(".hit");
    if (first) first.tabIndex = 0;
    if (kept && !before.isConnected) goTo(kept.side, kept.doc);
    say(
      columns
        .map(({ answer, failed, system }) =>
          answer
            ? `${plural(answer.hits.length, "result")} from ${system.label}`
            : failed
              ? `${system.label} failed`
              : `${system.label} is searching`,
        )
        .join(", "),
    );
  };
  await Promise.all(columns.map((column) => askOne(column)));
}

function sideTabs(columns, grid) {
  const tabs = el("div", { class: "tabs", role: "group", "aria-label": "System shown" });
  for (const { system } of columns) {
    const tab = el(
      "button",
      { type: "button", data: { side: system.side } },
      el("span", { class: `dot ${system.side}`, "aria-hidden": "true" }),
      el("bdi", {}, system.label),
    );
    tab.addEventListener("click", () => showSide(grid, system.side));
    tabs.append(tab);
  }
  queueMicrotask(() => showSide(grid, "a"));
  return tabs;
}

function followLinks(grid, svg, bodies) {
  const draw = () => drawLinks(svg, ...bodies);
  resizing?.disconnect();
  resizing = new ResizeObserver(draw);
  for (const node of [grid, ...bodies]) resizing.observe(node);
  const light = (event) => {
    const doc = event.target.closest?.(".hit")?.dataset.doc;
    for (const node of grid.querySelectorAll(".hit, path"))
      node.classList.toggle("lit", node.dataset.doc === doc);
  };
  if (grid.onmouseover) return;
  grid.onmouseover = light;
  grid.onmouseleave = () => light({ target: document.activeElement ?? document.body });
  grid.addEventListener("focusin", light);
}

// --- Wiring -----------------------------------------------------------------------

function submit() {
  readControls();
  writeAddress();
  run();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!indexes.length) start();
  else submit();
});
$("options").addEventListener("change", submit);
$("forget").addEventListener("click", () => {
  key.set("");
  start();
});
document.addEventListener("keydown", onKey);
window.addEventListener("popstate", () => {
  if (!indexes.length) return;
  readAddress();
  run();
});
if (!matchMedia("(pointer: coarse)").matches) $("query").focus(); // no keyboard pops up
start();
