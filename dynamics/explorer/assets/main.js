// Setting up the page, and showing its state.

let playing = null;
const isNarrow = window.matchMedia("(max-width: 46rem)");

function setEpoch(e, speak = false) {
  e = Math.min(meta.epochs.length - 1, Math.max(0, e));
  setState({ e, epoch: meta.epochs[e] });
  $("epoch").value = e;
  $("epoch-number").textContent = state.epoch;
  $("epoch").setAttribute("aria-valuetext", `epoch ${state.epoch}`);
  for (const chart of charts) chart.showNow(e);
  paint();
  look(looked, { speak });
}

async function render() {
  $("epoch").value = state.e;
  for (const [id, key] of [["value", "value"], ["runs", "runs"], ["hide", "hide"], ["split", "split"], ["sort", "sort"], ["query", "q"], ["least", "least"],
    ["token-sort", "tsort"], ["token-bucket", "tbucket"], ["token-class", "tclass"], ["token-first", "tfirst"], ["token-query", "tq"], ["token-least", "tleast"]]) {
    if ($(id).value !== state[key]) $(id).value = state[key];
  }
  for (const name of ["passages", "tokens"]) {
    const here = state.tab === name;
    $(`tab-${name}`).setAttribute("aria-selected", here);
    $(`tab-${name}`).tabIndex = here ? 0 : -1;
    $(`panel-${name}`).hidden = !here;
  }
  drawLegend($("legend"), scaleOf(state.value, isDifference()));
  // Only training tokens are dropped.
  $("hide-label").hidden = state.split !== "train" || !meta.pools.some(Boolean);
  drawOverview();
  await showPassage(state.p);
  setEpoch(state.e);
  list();
}

function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(() => setEpoch(state.e + 1 < meta.epochs.length ? state.e + 1 : 0), 700) : null;
  $("play").textContent = on ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", on);
}

function setTheme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  $("theme").setAttribute("aria-pressed", dark);
  if (!shown) return;
  for (const column of shown.columns) column.painted.fill(undefined);
  paint();
  drawLegend($("legend"), scaleOf(state.value, isDifference()));
}

function fillSelect(id, options) {
  $(id).replaceChildren(...options.map(([value, label]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = label;
    return option;
  }));
}

function setUp() {
  const names = meta.runs.map((run) => run.name);
  document.title = `${names.join(" and ")}: token explorer`;
  $("subtitle").replaceChildren(...meta.runs.map((_, r) => nameOfRun(r)));
  drawBestEpochs();
  $("epoch").max = meta.epochs.length - 1;
  fillSelect("value", Object.entries(VALUES).map(([key, { title }]) => [key, title]));
  fillSelect("runs", meta.runs.length > 1 ? [["a", names[0]], ["b", names[1]], ["side", "side by side"], ["difference", "difference"]] : [["a", names[0]]]);
  $("runs-label").hidden = meta.runs.length < 2;
  fillSelect("hide", [["", "no epoch"], ["now", "the epoch shown"], ...meta.epochs.filter((e) => e > 0).map((e) => [e, `epoch ${e}`])]);
  fillSelect("split", meta.splits.filter((s) => meta.passages.some((p) => meta.splits[p.split] === s)).map((s) => [s, s]));
  fillSelect("sort", Object.entries(PASSAGE_SORTS).map(([key, [title]]) => [key, title]));
  fillSelect("token-sort", Object.entries(TOKEN_SORTS).map(([key, [title]]) => [key, title]));
  fillSelect("token-bucket", [["", "all"], ...meta.buckets.map((b) => [b, b])]);
  fillSelect("token-class", [["", "all"], ...meta.classes.map((c) => [c, c])]);
  fillSelect("token-first", [["", "any epoch"], ["never", "never"], ...meta.epochs.map((e) => [e, `epoch ${e}`])]);
  $("notes").replaceChildren(...meta.notes.map((note) => { const item = document.createElement("li"); item.textContent = note; return item; }));
  $("recipes").replaceChildren(...meta.runs.flatMap((run) => {
    const name = document.createElement("h3"), recipe = document.createElement("pre");
    name.textContent = run.name;
    recipe.textContent = run.recipe;
    return [name, recipe];
  }));
  $("share").hidden = inline;

  $("epoch").addEventListener("input", () => setEpoch(Number($("epoch").value)));
  $("play").addEventListener("click", () => play(playing === null));
  $("theme").addEventListener("click", () => setTheme(theme() === "light"));
  $("skip").addEventListener("click", (event) => { event.preventDefault(); focusText(); });
  $("share").addEventListener("click", async () => {
    let said = "Copied";
    writeAddress();
    try { await navigator.clipboard.writeText(location.href); } catch { said = "The address is in the address bar"; }
    $("share").textContent = said;
    setTimeout(() => { $("share").textContent = "Copy address"; }, 2000);
  });
  const change = (id, key, then) => $(id).addEventListener($(id).tagName === "SELECT" ? "change" : "input", () => { setState({ [key]: $(id).value }); then(); });
  change("value", "value", render);
  change("runs", "runs", render);
  change("hide", "hide", paint);
  change("split", "split", () => go(openingPassage(state.split)));
  change("sort", "sort", list);
  change("least", "least", list);
  change("query", "q", () => { list(); markFound(); });
  for (const [id, key] of [["token-sort", "tsort"], ["token-bucket", "tbucket"], ["token-class", "tclass"], ["token-first", "tfirst"], ["token-query", "tq"], ["token-least", "tleast"]]) change(id, key, list);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  listenToKeys();
  // On a narrow screen the lists would stand between the controls and the text: they open there when asked for.
  const fold = () => { $("find").open = !isNarrow.matches; };
  isNarrow.addEventListener("change", fold);
  fold();
  const tabs = ["passages", "tokens"];
  for (const name of tabs) {
    $(`tab-${name}`).addEventListener("click", () => { setState({ tab: name }); render(); });
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[1 - tabs.indexOf(name)];
      setState({ tab: other });
      render().then(() => $(`tab-${other}`).focus());
    });
  }
  // Addresses typed, shared or gone back to; and links within the page, which lead from the state of the moment.
  window.addEventListener("hashchange", () => { clearTimeout(writing); writing = null; readAddress(); render(); });
  const linkOf = (event) => event.target.closest?.("nav a");
  for (const kind of ["pointerdown", "focusin"]) {
    document.addEventListener(kind, (event) => { const anchor = linkOf(event); if (anchor) anchor.href = address({ ...state, ...anchor.to }); });
  }
  document.addEventListener("click", (event) => {
    const anchor = linkOf(event);
    if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a new tab, and the like
    event.preventDefault();
    writeAddress();
    const there = address({ ...state, ...anchor.to });
    if (!inline) history.pushState(null, "", there);
    readAddress(there);
    if (isNarrow.matches) $("find").open = false;
    render();
  });
}

/** Return a run's name, with its colour, and with its letter where there are two. */
function nameOfRun(r) {
  const { name } = meta.runs[r], letter = meta.runs.length > 1 ? `${"AB"[r]} ` : "", note = divergenceOf(r);
  return node("span", "run-name", node("i", `key ${lookOf(r)}`), node("span", "letter", letter), name, note ? ` (${note})` : "");
}

function go(p) {
  setState({ ...place(p), p, at: "", opening: false });
  render();
}

/** Go on in the list of passages as it is sorted and searched; from a passage that is not in it, to its first. */
function step(by) {
  const order = foundPassages(), at = order.indexOf(state.p);
  if (order.length) go(order[at < 0 ? 0 : Math.min(order.length - 1, Math.max(0, at + by))]);
}

async function start() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for it: it needs Chrome 80, Firefox 113, Safari 16.4 or later");
  await readMeta();
  openingDefaults();
  setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches);
  readAddress();
  setUp();
  $("page").hidden = false;
  await render();
  document.documentElement.dataset.ready = "true";
  await readAll();
  document.documentElement.dataset.complete = "true";
}

start().catch((error) => {
  $("problem").hidden = false;
  $("problem").textContent = `The page cannot be shown: ${error.message}`;
});
