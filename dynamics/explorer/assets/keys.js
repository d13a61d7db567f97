// Keys that work on the whole page. Those of the text are in view.js; the help sheet lists all.

const results = () => [...$(state.tab === "tokens" ? "tokens" : "passages").querySelectorAll("a")];
const searchField = () => $(state.tab === "tokens" ? "token-query" : "query");

function focusSearch() {
  $("find").open = true;
  searchField().focus();
  searchField().select();
}

function focusText() {
  shown?.columns[0].element.focus();
}

/** Go from one result to the next; above the first is the search. */
function moveInResults(by) {
  const all = results(), at = all.indexOf(document.activeElement);
  if (at + by < 0) { if (at === 0) searchField().focus(); return; }
  all[Math.min(all.length - 1, at + by)]?.focus();
}

function openHelp() {
  if (!$("help").open) $("help").showModal();
}

const PAGE_KEYS = { "/": focusSearch, "?": openHelp, n: () => step(1), p: () => step(-1) };

function listenToKeys() {
  $("keys").addEventListener("click", openHelp);
  $("help-close").addEventListener("click", () => $("help").close());
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const { target } = event, isSearch = target === searchField();
    const isResult = target.matches?.("nav ol a");
    const typing = target.matches?.("input:not([type=range]), select, textarea");
    if ((isSearch || isResult) && (event.key === "ArrowDown" || event.key === "ArrowUp")) moveInResults(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Escape" && isSearch) focusText();
    else if (event.key === "Escape" && state.at !== "" && !typing) { setState({ at: "" }); look(-1); }
    else if (target === document.body && event.key.startsWith("Arrow")) { focusText(); moveInText(shown.columns[0], event.key); }
    else if (!typing && $("single-keys").checked && Object.hasOwn(PAGE_KEYS, event.key)) PAGE_KEYS[event.key]();
    else return;
    event.preventDefault();
  });
}
