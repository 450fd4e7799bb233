// Which words of a text answer a query, and which part of the text to show.
//
// Only what the reader sees hangs on this file; ranking happens in the service.

const WORD = /[\p{L}\p{M}\p{N}]+/gu;
const PIECE = /\p{Lu}?[\p{Ll}\p{M}]+|\p{Lu}+(?!\p{Ll})|\p{N}+|\p{Lo}+/gu;
// Scripts that put no space between words: their words are found by the browser.
const UNSPACED =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]/u;
const STOP = new Set(
  (
    "a an and are as at be but by can do does for from had has have how i if in into is it its " +
    "of on or so that the their then there these they this to was we were what when where which " +
    "who why will with you your"
  ).split(" "),
);
const SCANNED = 200_000; // characters of a text in which matches are looked for
const MOST_MATCHES = 2000;

// Text that cannot be drawn is shown as such: control characters but tab and new line.
export function clean(text) {
  return String(text ?? "")
    .replace(/\r\n?/g, "\n")
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}

function fold(word) {
  return word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
}

// A light stemmer for English (the first step of Porter's), so that "baked" marks "baking".
export function stem(word) {
  let w = fold(word);
  if (!/^[a-z]{4,}$/.test(w)) return w;
  if (w.endsWith("sses")) w = w.slice(0, -2);
  else if (w.endsWith("ies")) w = w.slice(0, -3) + "y";
  else if (/[^aeious]s$|[aeo]s$/.test(w)) w = w.slice(0, -1);
  const ending = /(ing|ed)$/.exec(w);
  if (ending && /[aeiouy]/.test(w.slice(0, ending.index)) && ending.index > 2) {
    w = w.slice(0, ending.index).replace(/([^aeiouylsz])\1$/, "$1");
  }
  return w.length > 3 ? w.replace(/e$/, "") : w;
}

function* wordsOf(text) {
  if (UNSPACED.test(text) && typeof Intl.Segmenter === "function") {
    for (const part of new Intl.Segmenter(undefined, { granularity: "word" }).segment(text)) {
      if (part.isWordLike) yield [part.index, part.segment];
    }
    return;
  }
  for (const found of text.matchAll(WORD)) yield [found.index, found[0]];
}

// Stems of a query's words; words that stand in every text only where there is no other.
export function queryStems(query) {
  const all = [...wordsOf(query)].map(([, word]) => word);
  const telling = all.filter((word) => !STOP.has(fold(word)));
  return new Set((telling.length ? telling : all).map(stem));
}

// Stems of an explained hit's tokens that are whole words ("##ing" is a part of one).
export function tokenStems(matches) {
  const whole = (matches ?? []).map((match) => String(match.token).replace(/^[Ġ▁]/, ""));
  return new Set(
    whole.filter((token) => /^[\p{L}\p{N}]{2,}$/u.test(token) && !STOP.has(token)).map(stem),
  );
}

// Places of matching words in order: {start, end, stem, exact}; exact for the query's own.
export function findMatches(text, stems, others = new Set()) {
  const found = [];
  const note = (start, word) => {
    const key = stem(word);
    const exact = stems.has(key);
    if (exact || others.has(key)) found.push({ start, end: start + word.length, stem: key, exact });
    return exact;
  };
  for (const [start, word] of wordsOf(text.slice(0, SCANNED))) {
    if (found.length >= MOST_MATCHES) break;
    if (note(start, word) || !/\p{Ll}\p{Lu}|\p{Lu}\p{Lu}\p{Ll}|\p{L}\p{N}/u.test(word)) continue;
    for (const piece of word.matchAll(PIECE)) note(start + piece.index, piece[0]);
  }
  return found;
}

// The nearest place at or before `at` that cuts no character in two.
export function safeCut(text, at) {
  let cut = Math.max(0, Math.min(text.length, at));
  for (let i = 0; i < 32 && cut > 0 && cut < text.length; i++) {
    if (
      !/^[\udc00-\udfff\u200d\ufe0f\p{M}]/u.test(text.slice(cut, cut + 2)) &&
      !/[\u200d\ud800-\udbff]/.test(text[cut - 1])
    )
      break;
    cut--;
  }
  return cut;
}

function windowAt(text, start, end) {
  let from = safeCut(text, start);
  let to = safeCut(text, end);
  if (from > 0) {
    const space = text.slice(from, from + 24).search(/\s/);
    if (space >= 0) from += space + 1;
  }
  if (to < text.length) {
    const space = text.slice(Math.max(from, to - 24), to).search(/\s\S*$/);
    if (space >= 0) to = Math.max(from, to - 24) + space;
  }
  return { start: from, end: to };
}

function bestStart(matches, size, covered) {
  let best = null;
  for (let i = 0; i < matches.length; i++) {
    const seen = new Set();
    let worth = 0;
    for (let j = i; j < matches.length && matches[j].end <= matches[i].start + size; j++) {
      const { stem: key, exact } = matches[j];
      if (!seen.has(key) && !covered.has(key)) worth += exact ? 1 : 0.4;
      seen.add(key);
      worth += 0.02;
    }
    if (seen.size && (best === null || worth > best.worth + 1e-9))
      best = { at: matches[i].start, worth, seen };
  }
  return best;
}

// One or two parts of a text, at most `size` characters, with the most of the query's words.
export function fragments(text, matches, size = 280) {
  if (text.length <= size * 1.15) return [{ start: 0, end: text.length }];
  if (!matches.length) return [windowAt(text, 0, size)];
  const half = Math.floor(size / 2);
  const lead = 36;
  const first = bestStart(matches, half - lead, new Set());
  const second = bestStart(matches, half - lead, first.seen);
  const adds = second !== null && [...second.seen].some((key) => !first.seen.has(key));
  if (!adds || Math.abs(second.at - first.at) < half) {
    const from = Math.min(first.at, adds ? second.at : first.at);
    const start = Math.max(0, Math.min(from - lead, text.length - size));
    return [windowAt(text, start, start + size)];
  }
  return [first.at, second.at]
    .sort((x, y) => x - y)
    .map((at) => Math.max(0, Math.min(at - lead, text.length - half)))
    .map((start) => windowAt(text, start, start + half));
}
