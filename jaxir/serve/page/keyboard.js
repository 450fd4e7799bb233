// Moving through results: which one has the focus, and which system is in view.

// The column that a result stands in.
export function sideOf(hit) {
  return hit.closest(".column").classList.contains("a") ? "a" : "b";
}

// On a narrow window one column is shown at a time.
export function showSide(grid, side) {
  grid.dataset.shown = side;
  for (const tab of document.querySelectorAll(".tabs button")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.side === side));
  }
}

function queryField() {
  return document.getElementById("query");
}

function hitsOf(side) {
  return [...document.querySelectorAll(`.column.${side} .hit`)];
}

function focusHit(hit) {
  if (!hit) return;
  const grid = hit.closest(".columns");
  showSide(grid, sideOf(hit));
  for (const node of grid.querySelectorAll(".hit")) node.tabIndex = node === hit ? 0 : -1;
  hit.focus();
  hit.scrollIntoView({ block: "nearest" });
}

export function goTo(side, doc) {
  focusHit(hitsOf(side).find((node) => node.dataset.doc === doc));
}

function fromHit(event, hit) {
  const query = queryField();
  const side = sideOf(hit);
  const hits = hitsOf(side);
  const at = hits.indexOf(hit);
  if (event.key === "ArrowDown") focusHit(hits[at + 1]);
  else if (event.key === "ArrowUp" && at === 0) query.focus();
  else if (event.key === "ArrowUp") focusHit(hits[at - 1]);
  else if (event.key === "Home") focusHit(hits[0]);
  else if (event.key === "End") focusHit(hits.at(-1));
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    const wanted = event.key === "ArrowLeft" ? "a" : "b";
    if (wanted === side) return false;
    const others = hitsOf(wanted);
    focusHit(
      others.find((node) => node.dataset.doc === hit.dataset.doc) ??
        others[Math.min(at, others.length - 1)],
    );
  } else if (event.key === "Enter") {
    const toggles = [...hit.querySelectorAll(".toggle, .weigh")];
    const first = toggles[0]?.getAttribute("aria-expanded");
    for (const toggle of toggles)
      if (toggle.getAttribute("aria-expanded") === first) toggle.click();
  } else return false;
  return true;
}

export function onKey(event) {
  const query = queryField();
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.target;
  const typing = target.matches?.("input:not([type=checkbox]), select, textarea");
  if (event.key === "/" && !typing) {
    query.focus();
    query.select();
  } else if (event.key === "Escape" && !typing) query.focus();
  else if (event.key === "ArrowDown" && target === query) {
    const shown = document.querySelector(".columns")?.dataset.shown ?? "a";
    const hit = hitsOf(shown)[0];
    if (!hit) return;
    focusHit(hit);
  } else if (!(target.classList?.contains("hit") && fromHit(event, target))) return;
  event.preventDefault();
}
