"use strict";
// The page is complete without this script; it adds sorting, filters and copying.
const all = (selector, from = document) => [...from.querySelectorAll(selector)];

// A column sorts from its best end, or from A, then the other way, then back to the table's own
// order; empty cells stay last.
const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
function sort(head) {
  const column = head.cellIndex, table = head.closest("table"), body = table.tBodies[0];
  const rises = column === 0 || head.dataset.first === "ascending";
  const turns = rises ? ["ascending", "descending", "none"] : ["descending", "ascending", "none"];
  const next = turns[(turns.indexOf(head.ariaSort) + 1) % 3];
  const sign = next === "ascending" ? 1 : -1;
  all("thead th", table).forEach((other) => { other.ariaSort = "none"; });
  head.ariaSort = next;
  const rows = [...body.rows];
  rows.sort((one, other) => {
    const order = one.dataset.order - other.dataset.order;
    if (next === "none") return order;
    const [a, b] = [key(one, column), key(other, column)];
    if (a === "" || b === "") return (a === "") - (b === "") || order;
    const isNumber = !isNaN(a) && !isNaN(b);
    return sign * (isNumber ? a - b : a.localeCompare(b)) || order;
  });
  body.append(...rows);
}
all("thead button").forEach((button) => {
  button.addEventListener("click", () => sort(button.closest("th")));
});

// Filters: a dataset shows its sections, a method its rows, a shot group its column.
const form = document.querySelector("#filters");
const overlays = Object.fromEntries(
  all("tr[data-overlay]").map((row) => [row.dataset.method, row.dataset.overlay]));
function filter() {
  const { dataset, method, group, words } = Object.fromEntries(new FormData(form));
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  all("tbody tr[data-method]").forEach((row) => {
    const name = `${row.dataset.method} ${overlays[row.dataset.method]}`.toLowerCase();
    row.hidden = Boolean(method && row.dataset.method !== method)
      || !wanted.every((word) => name.includes(word));
  });
  all("[data-group]").forEach((cell) => {
    cell.hidden = Boolean(group) && cell.dataset.group !== group;
  });
  all("[data-dataset]").forEach((part) => {
    const rows = all("tbody tr", part);
    part.hidden = Boolean(dataset && part.dataset.dataset !== dataset)
      || (rows.length > 0 && rows.every((row) => row.hidden))
      || (Boolean(group) && !part.querySelector(`[data-group="${group}"]`));
    if (!part.hidden) shown += all("table.scores tbody tr", part).filter((r) => !r.hidden).length;
  });
  all("article").forEach((table) => {
    table.hidden = all("[data-dataset]", table).every((part) => part.hidden);
  });
  document.querySelector("main").classList.toggle("narrowed", Boolean(method || wanted.length));
  document.getElementById("nothing").hidden = shown > 0 || all("article:not([hidden])").length > 0;
  form.querySelector("output").textContent = `${shown} row${shown === 1 ? "" : "s"} shown`;
}
form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", (event) => event.preventDefault());
filter();
// A link into what a filter hides shows all again.
all("nav a[href^='#']").forEach((link) => link.addEventListener("click", () => {
  if (document.getElementById(link.hash.slice(1)).hidden) { form.reset(); filter(); }
}));

// All numbers of a row open the same runs: one of them is enough for the keyboard. An address may
// name the runs.
all("tbody tr").forEach((row) => {
  all("button.cell", row).slice(1).forEach((button) => { button.tabIndex = -1; });
});
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("[popover]:not(:popover-open)")) target.showPopover();
}
addEventListener("hashchange", open);
open();

// Copying what a button's neighbour shows.
all("button.copy").forEach((button) => {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.from);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });
});
