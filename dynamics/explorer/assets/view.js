// The text of one passage, coloured; and the token that is looked at.

let shown = null; // { p, head, body, columns: [{ element, spans, run, painted }] }
let looked = -1; // the token under the pointer, or the chosen one

/** Return the values of all tokens of a passage, in one run and epoch; NaN where there is none. */
function valuesOf(head, body, run, value, e) {
  const found = new Float32Array(head.n);
  const { loss, entropy } = body[run];
  const L = loss(e), H = entropy(e);
  const best = value === "change" ? loss(meta.epochs.indexOf(meta.runs[run].best)) : null;
  for (let i = 0; i < head.n; i++) {
    switch (value) {
      case "loss": found[i] = decode[L[i]]; break;
      case "entropy": found[i] = decode[H[i]]; break;
      case "reference": found[i] = head.predicted[i] ? decode[head.referenceEntropy[i]] : NaN; break;
      case "change": found[i] = decode[L[i]] - decode[best[i]]; break;
      case "gap": found[i] = decode[L[i]] - decode[head.referenceLoss[i]]; break;
      case "overconfidence": found[i] = decode[L[i]] - decode[H[i]]; break;
      case "class": { const kind = head.runs[run].kind[i]; found[i] = kind === UNKNOWN ? NaN : kind; }
    }
  }
  return found;
}

function columnValues(column) {
  const { head, body } = shown, e = state.e, value = state.value;
  if (column.run !== "difference") return valuesOf(head, body, column.run, value, e);
  const a = valuesOf(head, body, 0, value, e), b = valuesOf(head, body, 1, value, e);
  if (value === "reference") return a;
  return a.map((x, i) => (value === "class" ? (Number.isNaN(x) ? NaN : Number(x !== b[i])) : x - b[i]));
}

const isDifference = () => state.runs === "difference";
const runsShown = () => ({ a: [0], b: [1], side: [0, 1], difference: ["difference"] })[state.runs];

async function showPassage(p) {
  const [head, body] = [await readHead(p), await readBody(p)];
  if (p !== state.p) return; // another was asked for meanwhile
  $("passage-title").textContent = passageName(p);
  const columns = runsShown().map((run) => {
    const frame = document.createElement("div");
    const element = document.createElement("div");
    element.className = "tokens";
    element.tabIndex = 0;
    element.setAttribute("role", "group");
    const name = run === "difference" ? `${meta.runs[0].name} minus ${meta.runs[1].name}` : meta.runs[run].name;
    element.setAttribute("aria-label", `Text of ${passageName(p)}, ${name}. Arrow keys go from token to token.`);
    if (meta.runs.length > 1) {
      const title = document.createElement("h3");
      title.append(run === "difference" ? name : nameOfRun(run));
      frame.append(title);
    }
    const spans = new Array(head.n);
    let at = 0;
    for (let i = 0; i < head.n; i++) {
      // What lies between tokens belongs to none.
      if (head.start[i] > at) element.append(utf8.decode(head.bytes.subarray(at, head.start[i])));
      const span = document.createElement("span");
      span.token = i;
      showToken(span, head, i);
      element.append(span);
      spans[i] = span;
      at = Math.max(at, head.end[i]);
    }
    frame.append(element);
    listenToTokens(element);
    return { element, frame, spans, run, painted: new Array(head.n) };
  });
  shown = { p, head, body, columns };
  $("text").className = columns.length > 1 ? "side" : "";
  $("text").replaceChildren(...columns.map((column) => column.frame));
  paint();
  markFound();
  showChosen();
}

/** Show the token of the address; or the one to open on; or else the first hit of the search. */
function showChosen() {
  const opens = state.opening ? openingToken(shown.head) : -1;
  if (opens >= 0) state.at = addressOf(shown.head, opens);
  const chosen = chosenToken();
  // Opening must not scroll the page away from its beginning.
  look(chosen, { scroll: chosen >= 0 && !(state.opening && isNarrow.matches) });
  state.opening = false;
  if (chosen < 0) reveal(shown.columns[0].element.querySelector(".found"));
}

/** Colour the tokens for the epoch and value of the moment. */
function paint() {
  if (!shown) return;
  const scale = scaleOf(state.value, isDifference());
  const hiddenIn = state.hide === "now" ? state.e : state.hide === "" ? -1 : meta.epochs.indexOf(Number(state.hide));
  for (const column of shown.columns) {
    const values = columnValues(column);
    const runs = column.run === "difference" ? [0, 1] : [column.run];
    for (let i = 0; i < shown.head.n; i++) {
      const color = colourOf(values[i], scale);
      const hidden = hiddenIn >= 0 && runs.some((r) => shown.body[r].dropped(hiddenIn, i));
      const key = color === null ? (hidden ? "-" : "") : color.back + (hidden ? "-" : "");
      if (column.painted[i] === key) continue;
      column.painted[i] = key;
      const span = column.spans[i];
      span.style.backgroundColor = color === null ? "" : color.back;
      span.style.color = color === null ? "" : color.ink;
      span.classList.toggle("hidden", hidden);
    }
  }
}

function markFound() {
  if (!shown) return;
  const hits = matchedTokens(shown.head, patternOf(state.q));
  for (const column of shown.columns) column.spans.forEach((span, i) => span.classList.toggle("found", hits[i] === 1));
}

function chosenToken() {
  if (!shown || state.at === "") return -1;
  const [sequence, position] = state.at.split(".").map(Number);
  const { head } = shown;
  for (let i = 0; i < head.n; i++) if (head.sequence[i] === sequence && head.position[i] === position) return i;
  return -1;
}

const addressOf = (head, i) => `${head.sequence[i]}.${head.position[i]}`;

/** Show what is known of a token; -1 for none. */
function look(i, { scroll = false, speak = false } = {}) {
  if (!shown) return;
  for (const column of shown.columns) {
    column.spans[looked]?.classList.remove("here");
    column.spans[i]?.classList.add("here");
  }
  looked = i;
  if (i < 0) {
    const hint = document.createElement("p");
    hint.textContent = "Point at a token, tap it, or go to it with the arrow keys.";
    $("token").replaceChildren(hint);
    return;
  }
  if (scroll) reveal(shown.columns[0].spans[i]);
  inspect(i);
  if (speak) {
    const facts = meta.runs.map((run, r) => {
      const body = shown.body[r], loss = decode[body.loss(state.e)[i]];
      return `${meta.runs.length > 1 ? `${run.name}: ` : ""}${Number.isNaN(loss) ? "not predicted" : `loss ${loss.toFixed(2)}, entropy ${decode[body.entropy(state.e)[i]].toFixed(2)}`}`;
    });
    $("spoken").textContent = `${tokenName(shown.head, i)}; epoch ${meta.epochs[state.e]}; ${facts.join("; ")}`;
  }
}

function inspect(i) {
  const { head, body } = shown;
  const panel = node("div", "", node("p", "", node("span", "word", tokenName(head, i)))), rest = node("div", "");
  const e = state.e, epoch = meta.epochs[e];
  const nats = (x) => (Number.isNaN(x) ? "\u2013" : x.toFixed(2));
  const each = (tell) => meta.runs.map((_, r) => tell(r)).join(" | ");
  // The curve first: who points with a mouse cannot scroll down to it.
  if (head.predicted[i]) {
    const series = meta.runs.flatMap((run, r) => ["loss", "entropy"].map((name, k) => ({
      label: meta.runs.length > 1 ? `${name} ${"AB"[r]}` : name, look: `${lookOf(r)} dash${k}`,
      values: meta.epochs.map((_, k2) => decode[body[r][name](k2)[i]]),
      marks: name === "loss" ? droppedEpochs(body[r], i) : [],
    })));
    const chart = document.createElement("div");
    drawChart(chart, series, { now: e, width: 300, height: 170, onPick: setEpoch, description: `Loss and entropy of this token over epochs ${meta.epochs[0]} to ${meta.epochs.at(-1)}; triangles: dropped` });
    panel.append(chart);
  }
  const facts = document.createElement("dl");
  const fact = (name, value) => {
    const term = document.createElement("dt"), given = document.createElement("dd");
    term.textContent = name;
    given.textContent = value;
    facts.append(term, given);
  };
  if (head.predicted[i]) {
    fact(`loss, epoch ${epoch}`, `${each((r) => nats(decode[body[r].loss(e)[i]]))} nats`);
    fact(`entropy, epoch ${epoch}`, `${each((r) => nats(decode[body[r].entropy(e)[i]]))} nats`);
    fact("most probable", each((r) => (body[r].correct(e, i) ? "yes" : "no")));
    fact("reference", `loss ${nats(decode[head.referenceLoss[i]])}, entropy ${nats(decode[head.referenceEntropy[i]])} nats`);
    if (head.bucket[i] !== UNKNOWN) fact("bucket", `${meta.buckets[head.bucket[i]]} reference entropy`);
    if (head.rank[i] !== NO_RANK) fact("rank", `${((head.rank[i] / (NO_RANK - 1)) * 100).toFixed(1)} % of the way up the training tokens`);
    fact("class", each((r) => (head.runs[r].kind[i] === UNKNOWN ? "\u2013" : meta.classes[head.runs[r].kind[i]])));
    fact("rebound", `${each((r) => nats(decode[head.runs[r].rebound[i]]))} nats`);
    fact("first learned", each((r) => (head.runs[r].firstLearned[i] === NEVER ? "never" : `epoch ${meta.epochs[head.runs[r].firstLearned[i]]}`)));
    fact("forgotten", each((r) => `${head.runs[r].forgetting[i]} times`));
    fact("may be dropped", [...new Set(meta.runs.map((_, r) => mayBeDropped(head, r, i)))].join(" | "));
    fact("dropped in", each((r) => droppedEpochs(body[r], i).map((k) => meta.epochs[k]).join(", ") || "no epoch"));
  } else fact("value", "none: nothing is predicted here (the first of a text, or a token without a label)");
  fact("place", `sequence ${head.sequence[i]}, position ${head.position[i]}, token id ${head.tokenId[i]}`);
  rest.append(facts);
  if (head.predicted[i]) {
    const more = document.createElement("details"), summary = document.createElement("summary");
    summary.textContent = "Every epoch";
    more.open = $("token").querySelector("details")?.open ?? false;
    const names = meta.runs.length > 1 ? ["A", "B"] : [""];
    more.append(summary, table(["epoch", ...names.flatMap((x) => [`loss ${x}`.trim(), `entropy ${x}`.trim()])],
      meta.epochs.map((epoch, k) => [epoch, ...meta.runs.flatMap((_, r) => [nats(decode[body[r].loss(k)[i]]), nats(decode[body[r].entropy(k)[i]])])])));
    rest.append(more);
  }
  $("token").replaceChildren(panel, rest);
}

function mayBeDropped(head, r, i) {
  const pool = meta.pools[r];
  if (meta.splits[meta.passages[shown.p].split] !== "train") return "no: only training text is";
  if (!pool) return "no: the recipe has no token dropout";
  const code = head.runs[r].mayDrop[i];
  return code === BY_EPOCH ? `by ${pool}, where its epoch's ranks say so` : code ? `yes, by ${pool}` : `no: not in the pool of ${pool}`;
}

const droppedEpochs = (body, i) => meta.epochs.map((_, k) => k).filter((k) => body.dropped(k, i));

function listenToTokens(element) {
  const tokenAt = (event) => { const span = event.target.closest("span"); return span && "token" in span ? span.token : -1; };
  element.addEventListener("pointerover", (event) => { const i = tokenAt(event); if (i >= 0) look(i); });
  element.addEventListener("pointerleave", () => { const chosen = chosenToken(); if (chosen >= 0) look(chosen); });
  element.addEventListener("click", (event) => { const i = tokenAt(event); if (i >= 0) choose(i); });
  element.addEventListener("focus", () => { if (chosenToken() < 0 && element.matches(":focus-visible")) choose(0, true); });
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "PageUp" || event.key === "PageDown") setEpoch(state.e + (event.key === "PageUp" ? 1 : -1), true);
    else if (!moveInText(shown.columns.find((column) => column.element === element), event.key)) return;
    event.preventDefault();
  });
}

/** Choose the token that a key leads to from the chosen one; return whether it is such a key. */
function moveInText({ spans }, key) {
  const last = shown.head.n - 1, from = Math.max(0, chosenToken());
  const to = { ArrowRight: () => from + 1, ArrowLeft: () => from - 1, Home: () => 0, End: () => last, ArrowDown: () => lineAway(spans, from, 1), ArrowUp: () => lineAway(spans, from, -1) }[key];
  if (to) choose(Math.min(last, Math.max(0, to())), true);
  return to !== undefined;
}

/** Return the token nearest above or below. */
function lineAway(spans, from, direction) {
  const box = (i) => spans[i].getClientRects()[0] ?? spans[i].getBoundingClientRect();
  const here = box(from);
  let best = from, least = Infinity, line = null;
  for (let i = from + direction; i >= 0 && i < spans.length; i += direction) {
    const there = box(i);
    if (Math.abs(there.top - here.top) < here.height / 2) continue;
    if (line === null) line = there.top;
    if (Math.abs(there.top - line) > here.height / 2) break;
    if (Math.abs(there.left - here.left) < least) { least = Math.abs(there.left - here.left); best = i; }
  }
  return best;
}

function choose(i, speak = false) {
  if (shown.p !== state.p) return; // another passage is on its way
  setState({ at: addressOf(shown.head, i) });
  look(i, { scroll: speak, speak });
}
