// Text as people should see it: what tokens cut apart, and what cannot be seen. Always as text, never as markup.

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

// Would turn text around, or join and part it, unseen: right-to-left marks, zero-width spaces, line separators.
const UNSEEN = /[\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;

/** Return where the character that holds each byte begins and ends; a byte that is no UTF-8 stands alone, negative. */
function characters(bytes) {
  const begin = new Int32Array(bytes.length), stop = new Int32Array(bytes.length);
  for (let i = 0; i < bytes.length; ) {
    const lead = bytes[i];
    let length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
    for (let k = 1; k < length; k++) if ((bytes[i + k] & 0xc0) !== 0x80) length = 0;
    // Surrogates, overlong forms and what lies beyond Unicode.
    if (length >= 3 && utf8.decode(bytes.subarray(i, i + length)).includes("\ufffd") && !(lead === 0xef && bytes[i + 1] === 0xbf && bytes[i + 2] === 0xbd)) length = 0;
    for (let k = 0; k < Math.max(length, 1); k++) {
      begin[i + k] = length ? i : -1;
      stop[i + k] = i + Math.max(length, 1);
    }
    i += Math.max(length, 1);
  }
  return { begin, stop };
}

/** Return the parts of one token: [kind, text], kinds being "text", "bytes" (parts of a character) and "whole". */
function tokenParts(head, i) {
  head.characters ??= characters(head.bytes);
  const { begin, stop } = head.characters;
  const parts = [];
  const add = (kind, text) => {
    const last = parts[parts.length - 1];
    if (kind === "text" && last && last[0] === "text") last[1] += text;
    else parts.push([kind, text]);
  };
  const from = head.start[i], to = head.end[i];
  for (let at = from; at < to; ) {
    const next = Math.min(stop[at], to);
    if (begin[at] >= from && stop[at] <= to) add("text", utf8.decode(head.bytes.subarray(at, next)));
    else {
      add("bytes", [...head.bytes.subarray(at, next)].map((b) => b.toString(16).toUpperCase().padStart(2, "0")).join(" "));
      // Whoever brings its last byte shows the character.
      if (begin[at] >= 0 && stop[at] <= to) add("whole", utf8.decode(head.bytes.subarray(begin[at], stop[at])));
    }
    at = next;
  }
  if (!parts.length) parts.push(["name", from === head.bytes.length ? "end of text" : `token ${head.tokenId[i]}`]);
  return parts;
}

/** Return how a character that cannot be seen is shown, or null. */
function markOf(character) {
  const code = character.codePointAt(0);
  if (character === "\n") return "\u21b5";
  if (character === "\t") return "\u21e5";
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  if ((code >= 0x80 && code < 0xa0) || UNSEEN.test(character)) return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  return null;
}

/** Put the text of a token into an element. */
function showToken(element, head, i) {
  for (const [kind, text] of tokenParts(head, i)) {
    if (kind === "bytes" || kind === "name") {
      element.append(marked(kind === "bytes" ? "bytes" : "mark", kind === "bytes" ? text : `\u27e8${text}\u27e9`));
      continue;
    }
    let plain = "";
    for (const character of text) {
      const mark = markOf(character);
      if (mark === null) { plain += character; continue; }
      element.append(plain, marked("mark", mark));
      // A break and a tab do what they say; the others do nothing.
      plain = character === "\n" || character === "\t" ? character : "";
    }
    element.append(plain);
  }
}

function marked(kind, text) {
  const mark = document.createElement("i");
  mark.className = kind;
  mark.textContent = text;
  return mark;
}

/** Return a token in one line, every character visible. */
function tokenName(head, i) {
  return tokenParts(head, i).map(([kind, text]) => {
    if (kind === "bytes") return `\u27e8${text}\u27e9`;
    if (kind === "name") return `\u27e8${text}\u27e9`;
    return [...text].map((character) => (character === " " ? "\u2423" : markOf(character) ?? character)).join("");
  }).join("");
}

const passageText = (head) => (head.text ??= utf8.decode(head.bytes));

/** Return a pattern that finds `query` as it stands, in either case; null for nothing. */
const patternOf = (query) => (query ? new RegExp(query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null);

/** Return which tokens of a passage hold a part of a match. */
function matchedTokens(head, pattern) {
  const hit = new Uint8Array(head.n);
  if (!pattern || passageText(head).search(pattern) < 0) return hit;
  // Character by character, since bytes that are no text have no length in the decoder's.
  const { begin, stop } = (head.characters ??= characters(head.bytes));
  let text = "";
  const byteOf = [];
  for (let at = 0; at < head.bytes.length; at = stop[at]) {
    const character = begin[at] < 0 ? "\ufffd" : utf8.decode(head.bytes.subarray(at, stop[at]));
    for (let k = 0; k < character.length; k++) byteOf.push(at);
    text += character;
  }
  byteOf.push(head.bytes.length);
  const spans = [...text.matchAll(pattern)].map((m) => [byteOf[m.index], byteOf[m.index + m[0].length]]);
  for (let i = 0, s = 0; i < head.n; i++) {
    while (s < spans.length && spans[s][1] <= head.start[i]) s++;
    if (s < spans.length && spans[s][0] < head.end[i]) hit[i] = 1;
  }
  return hit;
}

/**
 * Scroll an element into view. In a frame, such as a notebook's, only what the frame itself scrolls may move:
 * scrollIntoView would scroll the notebook away from what its reader is at.
 */
function reveal(element) {
  if (!element) return;
  if (window.parent === window) { element.scrollIntoView({ block: "nearest" }); return; }
  for (let box = element.parentElement; box; box = box.parentElement) {
    const isPage = box === document.scrollingElement;
    if (!isPage && !/auto|scroll/.test(getComputedStyle(box).overflowY)) continue;
    const here = element.getBoundingClientRect(), around = box.getBoundingClientRect();
    const top = isPage ? 0 : around.top, bottom = isPage ? window.innerHeight : around.bottom;
    if (here.top < top) box.scrollTop -= top - here.top;
    else if (here.bottom > bottom) box.scrollTop += here.bottom - bottom;
  }
}
