"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

// ---- the runs behind a number ------------------------------------------------------------------

const dialog = document.getElementById("behind");

function element(name, text, children = []) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function pairs(entries) {
  const list = element("dl");
  list.className = "pairs";
  for (const [name, value] of entries) {
    list.append(element("dt", name), element("dd", String(value)));
  }
  return list;
}

function row(kind, texts) {
  return element("tr", undefined, texts.map((text) => element(kind, text)));
}

function showRuns(index) {
  const cell = data.cells[index];
  const config = { ...data.common, ...cell.config };
  const body = document.getElementById("behind-body");
  document.getElementById("behind-title").textContent = cell.title;
  const runs = element("table", undefined, [
    element("thead", undefined, [row("th", ["set", "seed", "score, %", "best test, %", "file"])]),
    element("tbody", undefined, cell.runs.map((run) => row("td", run))),
  ]);
  const box = element("div", undefined, [runs]);
  box.className = "scroll";
  box.tabIndex = 0;
  const shown = data.order.filter((name) => name in config).map((name) => {
    const value = config[name];
    const text = Array.isArray(value) ? value.join(", ") : value;
    return [name.replaceAll("_", " "), text === null || text === "" ? "none" : text];
  });
  body.replaceChildren(
    element("p", cell.description),
    element("h3", "Runs"), box,
    element("h3", "Settings"), pairs(shown),
    ...cell.environments.flatMap((k) => [
      element("h3", "Versions"), pairs(Object.entries(data.environments[k])),
    ]),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-cell]");
  if (cell) showRuns(cell.dataset.cell);
  if (event.target === dialog) dialog.close(); // a click outside of the dialog
});

// ---- sorting of tables by any column -----------------------------------------------------------

function valueOf(row, column) {
  const item = row.cells[column];
  const value = item.dataset.v ?? item.textContent;
  const number = Number(value);
  return value === "" || value === "-" ? undefined : Number.isNaN(number) ? value : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(head) {
  const column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "descending";
  const table = head.closest("table");
  for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  // Numbers are first sorted in descending order, so that the best comes first.
  const first = head.classList.contains("n") ? "descending" : "ascending";
  const again = first === "descending" ? "ascending" : "descending";
  const order = head.dataset.sorted === first ? again : first;
  for (const other of head.parentNode.cells) delete other.dataset.sorted;
  head.dataset.sorted = order;
  head.setAttribute("aria-sort", order);
  const body = table.tBodies[0];
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) =>
    a === undefined || b === undefined ? (a === undefined) - (b === undefined) : sign * compare(a, b),
  );
  body.append(...rows.map(([, row]) => row));
}

for (const button of document.querySelectorAll(".sort")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// ---- highlighting of a series while the pointer is on its legend entry -------------------------

for (const item of document.querySelectorAll(".legend li")) {
  const series = item.closest("figure").querySelectorAll(".charts [data-series]");
  const fade = (on) => {
    for (const each of series) {
      each.classList.toggle("faded", on && each.dataset.series !== item.dataset.series);
    }
  };
  item.addEventListener("pointerenter", () => fade(true));
  item.addEventListener("pointerleave", () => fade(false));
}

// ---- light and dark mode -----------------------------------------------------------------------

const theme = document.getElementById("theme");
const SCHEMES = { auto: "light dark", light: "light", dark: "dark" };

function remembered() {
  try {
    return localStorage.getItem("gift-fast-theme") ?? "auto";
  } catch {
    return "auto"; // browsers may disable storage for local files
  }
}

function setTheme(name) {
  const known = name in SCHEMES ? name : "auto";
  document.documentElement.style.colorScheme = SCHEMES[known];
  theme.querySelector("span").textContent = known;
  theme.dataset.theme = known;
  theme.setAttribute("aria-label", `Color scheme: ${known === "auto" ? "as the system" : known}`);
  try {
    localStorage.setItem("gift-fast-theme", known);
  } catch {
    // Without storage, the choice is lost when the page is closed.
  }
}

theme.addEventListener("click", () => {
  const names = Object.keys(SCHEMES);
  setTheme(names[(names.indexOf(theme.dataset.theme) + 1) % names.length]);
});
setTheme(remembered());

// ---- collapsed sections ------------------------------------------------------------------------

// Expand all sections for printing.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});

// Collapse the contents on small screens, which they would fill.
if (matchMedia("(max-width: 64rem)").matches) document.querySelector("nav details").open = false;
