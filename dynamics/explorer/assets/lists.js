// Finding: passages and tokens, sorted, filtered and searched. Lists show their first entries and say how many there are.

const LISTED = 200;
const PASSAGE_SORTS = {
  place: ["place in the corpus", null],
  rebound: ["rebound", "nats"],
  gap: ["gap to the reference", "nats"],
  first: ["epoch first learned", ""],
  learned: ["share ever learned", ""],
  forgetting: ["forgetting events", "a token"],
};
const TOKEN_SORTS = {
  rebound: ["rebound", (head, r, i) => decode[head.runs[r].rebound[i]], (x) => `${x.toFixed(2)} nats`],
  gap: ["gap to the reference", (head, r, i) => decodeSigned(head.runs[r].gap[i]), (x) => `${x.toFixed(2)} nats`],
  first: ["first learned, latest", (head, r, i) => { const k = head.runs[r].firstLearned[i]; return k === NEVER ? NaN : meta.epochs[k]; }, (x) => `epoch ${x}`],
  forgetting: ["forgetting events", (head, r, i) => head.runs[r].forgetting[i], (x) => `${x} times`],
};

let allRead = false;
/** Return the run whose values lists sort by: the one that is shown; of two, the one that rebounded more. */
const runSorted = () => ({ a: 0, b: 1 })[state.runs] ?? mostRebounded;

const sortValue = (p) => meta.passages[p].runs[runSorted()][state.sort] ?? NaN;

/** Return the passages of the split that the search and the threshold leave, in the order of the list. */
function foundPassages() {
  const pattern = patternOf(state.q), split = meta.splits.indexOf(state.split);
  let found = meta.passages.map((_, p) => p).filter((p) => meta.passages[p].split === split);
  if (pattern) found = found.filter((p) => heads[p] && passageText(heads[p]).search(pattern) >= 0);
  if (state.sort !== "place") {
    if (state.least !== "") found = found.filter((p) => sortValue(p) >= Number(state.least));
    const order = (p) => (Number.isNaN(sortValue(p)) ? -Infinity : sortValue(p)); // those without a value come last
    found.sort((p, q) => order(q) - order(p) || p - q);
  }
  return found;
}

function listPassages() {
  const found = foundPassages(), pattern = patternOf(state.q), split = meta.splits.indexOf(state.split), byPlace = state.sort === "place";
  const unread = pattern && !allRead ? ", still looking" : "";
  const here = meta.passages.filter((one) => one.split === split).length, recorded = meta.recorded[split];
  const left = here < recorded ? `; ${here.toLocaleString("en")} of ${recorded.toLocaleString("en")} are in this page` : "";
  $("least").disabled = byPlace;
  $("passages-count").textContent = `${found.length.toLocaleString("en")} passage${found.length === 1 ? "" : "s"}${byPlace ? "" : sortedBy()}${found.length > LISTED ? `, the first ${LISTED} shown` : ""}${left}${unread}`;
  replaceItems($("passages"), found.slice(0, LISTED).map((p) => {
    const item = link({ ...place(p), at: "" }, passageName(p), snippet(p, pattern), byPlace || Number.isNaN(sortValue(p)) ? "" : `${sortValue(p).toFixed(2)} ${PASSAGE_SORTS[state.sort][1]}`);
    if (p === state.p) item.firstChild.setAttribute("aria-current", "true");
    return item;
  }));
}

/** Say whose values two runs' lists are sorted by. */
const sortedBy = () => (meta.runs.length > 1 ? `, by values of ${meta.runs[runSorted()].name}` : "");

/** Replace the items of a list; whoever stood on one by keyboard stays at its place. */
function replaceItems(list, items) {
  const at = [...list.children].indexOf(document.activeElement?.closest("li"));
  list.replaceChildren(...items);
  if (at >= 0) (items[at] ?? items.at(-1))?.firstChild.focus({ preventScroll: true });
}

const SNIPPET = 70; // characters
const BEFORE_HIT = 24;
const readable = (text) => [...text.replace(/\s+/g, " ")].map((c) => markOf(c) ?? c).join("");

/** Return the beginning of a passage, or what surrounds the first hit in it, with the hit marked. */
function snippet(p, pattern) {
  if (!heads[p]) return [`${meta.passages[p].tokens} tokens`];
  const text = passageText(heads[p]), hit = pattern && text.matchAll(pattern).next().value;
  if (!hit) return [`${readable(cut(text, 0, SNIPPET)).trim()}\u2026`];
  const from = hit.index, to = from + Math.min(hit[0].length, SNIPPET), begin = Math.max(0, from - BEFORE_HIT);
  const before = readable(cut(text, begin, from)), after = readable(cut(text, to, begin + SNIPPET));
  return [`${begin > 0 ? "\u2026" : ""}${before}`, node("mark", "", readable(cut(text, from, to))), `${after}\u2026`];
}

/** Return a part of a text, without half a character at its ends. */
const cut = (text, from, to) => text.slice(from, Math.max(from, to)).replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, "");

function place(p) {
  const { split, document, part } = meta.passages[p];
  return { split: meta.splits[split], doc: document, part };
}

function link(target, name, small, figure) {
  const item = document.createElement("li"), anchor = document.createElement("a"), note = document.createElement("small"), strong = document.createElement("b");
  anchor.to = target;
  anchor.href = address({ ...state, ...target });
  anchor.append(...[name].flat());
  strong.textContent = figure;
  note.append(strong, figure ? " " : "", ...small);
  anchor.append(note);
  item.append(anchor);
  return item;
}

function listTokens() {
  const r = runSorted(), [, value, written] = TOKEN_SORTS[state.tsort], split = meta.splits.indexOf(state.split);
  const bucket = state.tbucket === "" ? null : meta.buckets.indexOf(state.tbucket);
  const kind = state.tclass === "" ? null : meta.classes.indexOf(state.tclass);
  const pattern = patternOf(state.tq), least = state.tleast === "" ? -Infinity : Number(state.tleast);
  const found = [];
  meta.passages.forEach((passage, p) => {
    const head = heads[p];
    if (passage.split !== split || !head) return;
    for (let i = 0; i < head.n; i++) {
      if (!head.predicted[i] || (bucket !== null && head.bucket[i] !== bucket) || (kind !== null && head.runs[r].kind[i] !== kind)) continue;
      const first = head.runs[r].firstLearned[i];
      if (state.tfirst !== "" && (state.tfirst === "never" ? first !== NEVER : meta.epochs[first] !== Number(state.tfirst))) continue;
      const x = value(head, r, i);
      if (Number.isNaN(x) || x < least) continue;
      if (pattern && tokenParts(head, i).every(([, text]) => text.search(pattern) < 0)) continue;
      found.push([x, p, i]);
    }
  });
  found.sort((a, b) => b[0] - a[0]);
  $("tokens-count").textContent = `${found.length.toLocaleString("en")} tokens${kind === null ? sortedBy() : confirmed(found, r, kind)}${found.length > LISTED ? `, the first ${LISTED} shown` : ""}${allRead ? "" : ", still reading"}`;
  replaceItems($("tokens"), found.slice(0, LISTED).map(([x, p, i]) => {
    const item = link({ ...place(p), at: addressOf(heads[p], i) }, around(heads[p], i), [passageName(p)], written(x));
    if (state.at === addressOf(heads[p], i)) item.firstChild.setAttribute("aria-current", "true");
    return item;
  }));
}

/** Say beside a count of tokens of a class, which a run's own losses chose, what the other run says; alone, that none does. */
function confirmed(found, r, kind) {
  if (meta.runs.length < 2) return " as this run's own losses chose, validated by no other run";
  const same = found.filter(([, p, i]) => heads[p].runs[1 - r].kind[i] === kind).length;
  return `, ${same.toLocaleString("en")} of this class in the other run too`;
}

/** Return a token, marked, between its neighbours. */
function around(head, i) {
  const names = (from, to) => Array.from({ length: to - from }, (_, k) => tokenName(head, from + k).replaceAll("\u2423", " ")).join("");
  return [names(Math.max(0, i - 4), i), node("mark", "", `\u00ab${tokenName(head, i)}\u00bb`), names(i + 1, Math.min(head.n, i + 3))];
}

/** Read the heads of all passages, a few at a time, so that the page answers meanwhile. */
async function readAll() {
  let last = performance.now();
  for (let p = 0; p < meta.passages.length; p++) {
    await readHead(p);
    if (performance.now() - last > 30) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      last = performance.now();
    }
  }
  allRead = true;
  list();
}

function list() {
  if (state.tab === "tokens") listTokens();
  else listPassages();
}
