// What the page shows. Texts of documents enter as text nodes only, never as HTML.

import { clean } from "./words.js";

// The namespace of drawings.
export const SVG = "http://www.w3.org/2000/svg";

export function el(tag, { on, data, ...given } = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  Object.assign(node.dataset, data);
  for (const [name, action] of Object.entries(on ?? {})) node.addEventListener(name, action);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function hiddenText(text) {
  return el("span", { class: "hidden" }, text);
}

export function plural(count, one, many = `${one}s`) {
  return `${Number(count).toLocaleString("en")} ${count === 1 ? one : many}`;
}

export function number(value, digits = 4) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const large = Math.abs(value) >= 10 ** digits;
  return (large ? value.toFixed(0) : value.toPrecision(digits)).replace("-", "−");
}

// The last part of a path or of a hub's name: enough to tell models apart.
export function shortName(name) {
  return clean(name)
    .replace(/[/\\]+$/, "")
    .split(/[/\\]/)
    .pop();
}

function duration(took) {
  if (typeof took !== "number") return null;
  return took < 10
    ? `${took.toFixed(1)} ms`
    : took < 10_000
      ? `${took.toFixed(0)} ms`
      : `${(took / 1000).toFixed(1)} s`;
}

// The heading of a column: the system, what it is, and how long it took.
export function columnHead(side, system, took) {
  const { index, rerank } = system;
  const facts = [
    index.kind === index.name ? null : index.kind,
    typeof index.docs === "number" ? plural(index.docs, "document") : null,
    index.model ? shortName(index.model) : null,
    duration(took),
  ].filter(Boolean);
  const title = el(
    "h2",
    {},
    el("span", { class: `dot ${side}`, "aria-hidden": "true" }),
    el("bdi", {}, clean(index.name)),
  );
  if (rerank) {
    const by =
      typeof index.reranker === "string" ? `Reranked by ${shortName(index.reranker)}` : null;
    title.append(el("small", { title: by }, " + reranker"));
  }
  return el("div", { class: "column-head" }, title, el("p", { class: "facts" }, facts.join(" · ")));
}

export function panel(heading, text, ...more) {
  return el(
    "div",
    { class: "panel" },
    el("p", { class: "panel-title" }, heading),
    text ? el("p", {}, text) : null,
    ...more,
  );
}

export function skeleton() {
  const rows = Array.from({ length: 4 }, () =>
    el("div", { class: "ghost" }, el("span", { class: "ghost-title" }), el("span"), el("span")),
  );
  return el(
    "div",
    { class: "skeleton" },
    el("p", { class: "slow", hidden: true }, "Still searching …"),
    ...rows,
  );
}

// What the service holds, for a reader who has not asked anything yet.
export function served(indexes) {
  const column = (text, name) => el("th", { scope: "col", class: name }, text);
  const head = [
    column("System"),
    column("Kind"),
    column("Documents", "count"),
    column("Model", "model"),
    column("Reranker", "reranker"),
  ];
  const rows = indexes.map((index) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, el("bdi", {}, clean(index.name))),
      el("td", {}, clean(index.kind)),
      el(
        "td",
        { class: "count" },
        typeof index.docs === "number" ? index.docs.toLocaleString("en") : "–",
      ),
      el("td", { class: "model" }, index.model ? shortName(index.model) : "–"),
      el(
        "td",
        { class: "reranker" },
        index.reranker
          ? typeof index.reranker === "string"
            ? shortName(index.reranker)
            : "yes"
          : "–",
      ),
    ),
  );
  return el(
    "section",
    { class: "served" },
    el("h2", {}, "What is served here"),
    el(
      "div",
      { class: "scroll" },
      el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)),
    ),
  );
}
