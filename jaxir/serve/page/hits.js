// A column's results: texts with marks, moves between systems, and tokens behind scores.

import { SVG, el, hiddenText, number, plural } from "./view.js";
import { clean, findMatches, fragments, queryStems, safeCut, tokenStems } from "./words.js";

const WHOLE = 20_000; // characters of a long text shown at once
const LONGEST_TITLE = 160;
const BARS = 3;

function marked(text, { start, end }, matches) {
  const parts = [];
  let at = start;
  for (const match of matches) {
    if (match.start < at || match.end > end) continue;
    if (match.start > at) parts.push(text.slice(at, match.start));
    parts.push(
      el("mark", { class: match.exact ? null : "related" }, text.slice(match.start, match.end)),
    );
    at = match.end;
  }
  parts.push(text.slice(at, end));
  return parts;
}

// Names such as a.module.of_python break at their signs, not within words.
function breakable(node) {
  for (const child of [...node.childNodes]) {
    if (child.nodeType !== Node.TEXT_NODE) breakable(child);
    else {
      const parts = child.data.split(/(?<=[._/:-])(?=[^\s._/:-])/);
      child.replaceWith(...parts.flatMap((part, i) => (i ? [el("wbr"), part] : [part])));
    }
  }
  return node;
}

function snippet(text, matches) {
  const node = el("p", { class: "snippet", dir: "auto" });
  let last = 0;
  for (const part of fragments(text, matches)) {
    if (part.start > last) node.append(last ? " … " : "…\u00a0");
    node.append(...marked(text, part, matches));
    last = part.end;
  }
  if (last < text.length) node.append("\u00a0…");
  return node;
}

function wholeText(text, matches) {
  const cut = text.length > WHOLE * 1.2 ? safeCut(text, WHOLE) : text.length;
  const body = el("div", {
    class: "whole",
    dir: "auto",
    tabindex: 0,
    role: "group",
    "aria-label": "Whole text",
  });
  body.append(...marked(text, { start: 0, end: cut }, matches));
  if (cut === text.length) return body;
  const rest = (text.length - cut).toLocaleString("en");
  const more = el(
    "button",
    { type: "button", class: "plain" },
    `Show the other ${rest} characters`,
  );
  const row = el("p", { class: "rest" }, more);
  more.addEventListener("click", () => {
    row.replaceWith(...marked(text, { start: cut, end: text.length }, matches));
    body.focus();
  });
  body.append(row);
  return body;
}

function bar(share) {
  const node = el("span", { class: "bar", "aria-hidden": "true" }, el("span"));
  node.firstChild.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return node;
}

function tokenBar(match, most) {
  return el(
    "li",
    {},
    el(
      "span",
      { class: "amount" },
      el("code", { dir: "auto" }, clean(match.token)),
      el("span", {}, number(match.score, 3)),
    ),
    bar(match.score / most),
  );
}

function tokenTable(matches, name) {
  const cell = (value) => el("td", {}, number(value, 3));
  const head = ["Token", "Query", "Document", "Product"].map((text) =>
    el("th", { scope: "col" }, text),
  );
  const rows = matches.map((match) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, el("code", { dir: "auto" }, clean(match.token))),
      cell(match.query_weight),
      cell(match.doc_weight),
      cell(match.score),
    ),
  );
  const sum = matches.reduce((total, match) => total + match.score, 0);
  return el(
    "table",
    {},
    el("caption", { class: "hidden" }, `What each token adds to the score of ${name}`),
    el("thead", {}, el("tr", {}, ...head)),
    el("tbody", {}, ...rows),
    el(
      "tfoot",
      {},
      el("tr", {}, el("th", { scope: "row", colspan: 3 }, "Sum"), el("td", {}, number(sum))),
    ),
  );
}

function contributions(matches, most, name, reranked) {
  const sorted = [...matches].sort((x, y) => y.score - x.score);
  const bars = el("ul", { "aria-label": "Tokens that add most" });
  bars.append(...sorted.slice(0, BARS).map((match) => tokenBar(match, most)));
  const toggle = el(
    "button",
    { type: "button", class: "plain weigh", "aria-expanded": "false" },
    plural(sorted.length, "token"),
  );
  const table = el("div", { class: "why", hidden: true });
  toggle.addEventListener("click", () => {
    if (!table.firstChild) {
      table.append(
        el(
          "div",
          { class: "scroll", tabindex: 0, role: "group", "aria-label": "Weights" },
          tokenTable(sorted, name),
        ),
      );
      if (reranked)
        table.append(
          el(
            "p",
            { class: "note" },
            "The sum is the first stage’s score; the order is the reranker’s.",
          ),
        );
    }
    table.hidden = !table.hidden;
    toggle.setAttribute("aria-expanded", String(!table.hidden));
  });
  return [el("div", { class: "bars" }, bars, toggle), table];
}

function moveBadge(rank, other, otherName, letter, go) {
  const dot = el("span", { class: `dot ${letter}`, "aria-hidden": "true" });
  if (other === undefined) {
    return el(
      "span",
      { class: "move alone", title: `Not among the results of ${otherName}` },
      "only here",
    );
  }
  const change = other - rank;
  const direction = change > 0 ? "up" : change < 0 ? "down" : "same";
  const arrow = { up: `▲ ${change}`, down: `▼ ${-change}`, same: "=" }[direction];
  const spoken = {
    up: `${change} higher here`,
    down: `${-change} lower here`,
    same: "the same rank",
  }[direction];
  return el(
    "button",
    {
      type: "button",
      class: `move ${direction}`,
      tabindex: -1,
      on: { click: go },
      title: `Rank ${other} in ${otherName}, ${spoken}`,
      "aria-label": `Rank ${other} in ${otherName}, ${spoken}; go to it`,
    },
    dot,
    el("span", {}, String(other)),
    el("span", { class: "arrow" }, arrow),
  );
}

function hitNode(hit, position, context) {
  const { stems, other, otherName, otherLetter, most, side, reranked } = context;
  const rank = hit.rank ?? position + 1;
  const id = clean(hit.doc_id);
  const title = clean(hit.title).trim();
  const text = clean(hit.text).trim();
  const tokens = hit.matches ?? [];
  const related = tokenStems(tokens);
  const name = title || id || "a document without a name";
  const shortTitle =
    title.length > LONGEST_TITLE ? title.slice(0, safeCut(title, LONGEST_TITLE)) + " …" : title;
  const heading = el("h3", { dir: "auto", id: `${side}-${position}` });
  if (title)
    heading.append(
      ...marked(
        shortTitle,
        { start: 0, end: shortTitle.length },
        findMatches(shortTitle, stems, related),
      ),
    );
  else heading.append(el("code", {}, id || "(no title)"));
  breakable(heading);
  const body = el("div", { class: "body" });
  body.append(
    el(
      "div",
      { class: "head" },
      heading,
      el("span", { class: "score", title: "Score" }, hiddenText("score "), number(hit.score)),
    ),
  );
  const facts = el("div", { class: "meta" });
  if (title && title !== id) facts.append(el("code", { class: "id", dir: "auto" }, id));
  if (other)
    facts.append(
      moveBadge(rank, other.get(hit.doc_id), otherName, otherLetter, () => context.go(hit.doc_id)),
    );
  if (facts.childNodes.length) body.append(facts);
  if (text) {
    const matches = findMatches(text, stems, related);
    const short = snippet(text, matches);
    body.append(short);
    const complete = short.textContent === text && !text.includes("\n");
    if (!complete) {
      const label = () => (toggle.getAttribute("aria-expanded") === "true" ? "Less" : "Whole text");
      const toggle = el(
        "button",
        { type: "button", class: "plain toggle", "aria-expanded": "false" },
        "Whole text",
      );
      let shown = short;
      let whole = null;
      toggle.addEventListener("click", () => {
        const open = toggle.getAttribute("aria-expanded") !== "true";
        whole ??= wholeText(text, matches);
        const next = open ? whole : short;
        shown.replaceWith(next);
        shown = next;
        toggle.setAttribute("aria-expanded", String(open));
        toggle.textContent = label();
      });
      body.append(toggle);
    }
  } else {
    const missing = hit.text === null || hit.text === undefined;
    body.append(
      el(
        "p",
        { class: "snippet none" },
        missing ? "The service holds no text of it." : "An empty text.",
      ),
    );
  }
  if (tokens.length) body.append(...contributions(tokens, most, name, reranked));
  return el(
    "li",
    {
      class: "hit",
      tabindex: -1,
      "aria-labelledby": `${side}-${position}`,
      data: { doc: String(hit.doc_id) },
    },
    el("span", { class: "rank" }, hiddenText("rank "), String(rank)),
    body,
  );
}

export function hitList(side, answer, other, query, go) {
  const stems = queryStems(query);
  const scores = answer.hits.flatMap((hit) => (hit.matches ?? []).map((match) => match.score));
  const context = {
    stems,
    side,
    go,
    reranked: answer.system.rerank,
    most: Math.max(...scores, 1e-9),
    other: other ? new Map(other.hits.map((hit, i) => [hit.doc_id, hit.rank ?? i + 1])) : null,
    otherName: other ? clean(other.system.label) : "",
    otherLetter: side === "a" ? "b" : "a",
  };
  const list = el("ol", {
    role: "list", // Safari forgets it where there are no numbers
    class: "hits",
    "aria-label": `Results of ${clean(answer.system.label)}`,
  });
  list.append(...answer.hits.map((hit, i) => hitNode(hit, i, context)));
  return list;
}

// Lines from each document in the left column to itself in the right one.
export function drawLinks(svg, left, right) {
  const box = svg.getBoundingClientRect();
  svg.replaceChildren();
  if (!box.width) return;
  const heightOf = (node) => node.querySelector(".rank").getBoundingClientRect();
  const there = new Map(
    [...right.querySelectorAll(".hit")].map((node) => [node.dataset.doc, node]),
  );
  for (const node of left.querySelectorAll(".hit")) {
    const twin = there.get(node.dataset.doc);
    if (!twin) continue;
    const [from, to] = [node, twin].map(
      (hit) => heightOf(hit).top + heightOf(hit).height / 2 - box.top,
    );
    const line = document.createElementNS(SVG, "path");
    const middle = box.width / 2;
    line.setAttribute("d", `M0 ${from} C${middle} ${from} ${middle} ${to} ${box.width} ${to}`);
    line.dataset.doc = node.dataset.doc;
    svg.append(line);
  }
}

export function overlapSummary(left, right) {
  const there = new Map(right.hits.map((hit, i) => [hit.doc_id, i]));
  const both = left.hits.filter((hit) => there.has(hit.doc_id));
  const same = left.hits.filter((hit, i) => there.get(hit.doc_id) === i).length;
  const most = Math.max(left.hits.length, right.hits.length);
  if (!both.length) return "No document is in both lists.";
  return `${both.length} of ${plural(most, "document")} in both lists, ${same || "none"} at the same rank.`;
}
