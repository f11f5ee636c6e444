// The table of rows: one experiment at a time, sorted and filtered, and made only as far as one scrolls.
(() => {
"use strict";
const tables = JSON.parse(document.getElementById("assay-data").textContent).rows;
if (!tables.length) return;
const byId = (id) => document.getElementById(id);
const CHUNK = 100;
let table = tables[0];
let order = { column: -1, down: false };
let found = [];
let made = 0;

function element(tag, text, className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

const words = (value) => (value === null || value === undefined ? "–" : typeof value === "number" ? String(Number(value.toPrecision(5))) : String(value));
const isNumeric = (column) => table.rows.some((row) => typeof row[column] === "number");

/** "column > 0.5" compares; anything else is searched for as text. */
function condition(text) {
  const [, name, relation, limit] = text.match(/^\s*(.+?)\s*(>=|<=|=|>|<)\s*(\S+)\s*$/) ?? [];
  const column = table.columns.indexOf(name);
  if (column >= 0) {
    const holds = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, "=": (a, b) => a === b }[relation];
    const number = Number(limit);
    return Number.isNaN(number) ? (row) => relation === "=" && String(row[column]) === limit : (row) => row[column] !== null && holds(row[column], number);
  }
  const wanted = text.toLowerCase().trim();
  return (row) => !wanted || row.some((value) => words(value).toLowerCase().includes(wanted));
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || b === null) return a === null ? 1 : -1; // what is missing comes last, both ways
  return (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))) * (order.down ? -1 : 1);
}

function more() {
  const body = byId("row-table").querySelector("tbody");
  for (const row of found.slice(made, made + CHUNK)) {
    const line = document.createElement("tr");
    line.append(...row.map((value) => element("td", words(value), typeof value === "number" ? "n" : "")));
    body.append(line);
  }
  made = Math.min(found.length, made + CHUNK);
}

function fill() {
  found = table.rows.filter(condition(byId("row-filter").value));
  if (order.column >= 0) found.sort((a, b) => compare(a[order.column], b[order.column]));
  made = 0;
  byId("row-table").querySelector("tbody").replaceChildren();
  byId("row-table").scrollTop = 0;
  byId("row-count").textContent = `${found.length.toLocaleString("en")} of ${table.rows.length.toLocaleString("en")} rows`;
  more();
}

function head() {
  const line = document.createElement("tr");
  table.columns.forEach((name, column) => {
    const cell = element("th", "", isNumeric(column) ? "n" : "");
    cell.scope = "col";
    const button = element("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      order = { column, down: order.column === column && !order.down };
      for (const other of line.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      fill();
    });
    cell.append(button);
    line.append(cell);
  });
  byId("row-table").querySelector("thead").replaceChildren(line);
}

function choose(index) {
  table = tables[index];
  order = { column: -1, down: false };
  head();
  fill();
}

byId("experiment").replaceChildren(...tables.map((one, i) => {
  const option = element("option", `${one.name} (${one.rows.length.toLocaleString("en")})`);
  option.value = String(i);
  return option;
}));
byId("experiment").addEventListener("change", (event) => choose(Number(event.target.value)));
byId("row-filter").addEventListener("input", fill);
byId("row-table").addEventListener("scroll", (event) => {
  const box = event.target;
  if (made < found.length && box.scrollTop + box.clientHeight > box.scrollHeight - 300) more();
});
byId("rows").hidden = false;
choose(0);
})();
