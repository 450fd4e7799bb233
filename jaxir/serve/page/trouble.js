// What the page says when an answer does not come: a missing key, a busy service, errors.

import { key } from "./service.js";
import { el, panel } from "./view.js";

const RETRIES = 3; // of a busy service, without being told to

// Asks for the API key, keeps it, and goes on with `again`; returns what it says.
export function askForKey(place, refused, again) {
  const input = el("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "key-note",
  });
  const note = el(
    "p",
    { class: "note", id: "key-note", "aria-live": "polite" },
    "It is kept in this tab until you close it.",
  );
  const form = el(
    "form",
    { class: "key" },
    el("label", { for: "key" }, "API key"),
    el(
      "div",
      { class: "row" },
      input,
      el("button", { class: "primary", type: "submit" }, "Use this key"),
    ),
    note,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = input.value.trim();
    if (!/^[\x21-\x7e]+$/.test(value)) {
      note.textContent = "A key is made of letters, digits and signs of ASCII, without spaces.";
      input.setAttribute("aria-invalid", "true");
      input.focus();
      return;
    }
    key.set(value);
    again();
  });
  const heading = refused
    ? "The service did not accept this API key"
    : "This service asks for an API key";
  place.replaceChildren(panel(heading, refused ? "Check it and give it again." : null, form));
  input.focus();
  return heading;
}

const HEADINGS = {
  0: "The service does not answer",
  400: "The service could not use this request",
  403: "This is not allowed here",
  404: "This system is no longer served",
  413: "The query is too long",
  422: "The service could not use this request",
  429: "The service is busy",
  503: "The service is not ready",
  504: "The search took too long",
};

// A panel for what went wrong; where the service said when to come back, it counts down.
// `again(attempt)` asks once more; `keep(timer)` is told of the timer that will do so.
export function troublePanel(error, again, attempt, keep) {
  const heading = HEADINGS[error.status] ?? "The service failed";
  const button = el("button", { type: "button", class: "secondary" }, "Try again");
  let ticking = null;
  button.addEventListener("click", () => {
    clearInterval(ticking);
    again(0);
  });
  const made = panel(heading, error.message, el("p", { class: "row" }, button));
  made.classList.add("trouble");
  made.setAttribute("role", "alert");
  if (error.wait !== null && (error.status === 503 || attempt < RETRIES)) {
    let left = Math.ceil(error.wait);
    const count = el("span", { class: "note", "aria-live": "off" });
    const show = () => (count.textContent = `Trying again in ${left} s`);
    show();
    button.textContent = "Try now";
    button.after(count);
    ticking = setInterval(() => {
      left -= 1;
      show();
      if (left <= 0) {
        clearInterval(ticking);
        again(attempt + 1);
      }
    }, 1000);
    keep(ticking);
  }
  return made;
}
