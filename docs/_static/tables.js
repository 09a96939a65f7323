// Sort a table by a click on the head of a column: numbers by size, the rest by letters.
// Of "66.8 ± 0.8" and "83 [80.9, 87]" the first number counts. A second click turns the order.
"use strict";

function sortKey(text) {
  const number = text.replace(/,(?=\d{3})/g, "").match(/^[^\d−-]*([−-]?\d+(\.\d+)?)/);
  return number ? Number(number[1].replace("−", "-")) : null;
}

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => {
    const text = (row.cells[column]?.innerText ?? "").trim();
    return { row, place, text, number: sortKey(text) };
  });
  // A column of words may hold digits ("DeepLabV3"), so most cells have to begin with a number.
  const filled = rows.filter((one) => one.text !== "");
  const numeric = filled.filter((one) => /^[+−-]?\d/.test(one.text)).length > filled.length / 2;
  rows.sort((a, b) => {
    const missing = numeric ? (x) => x.number === null : (x) => x.text === "";
    if (missing(a) || missing(b)) return missing(a) - missing(b) || a.place - b.place; // last, always
    const order = numeric ? a.number - b.number : a.text.localeCompare(b.text);
    return (descending ? -order : order) || a.place - b.place;
  });
  body.append(...rows.map((one) => one.row));
}

function makeSortable(table) {
  const heads = [...(table.tHead?.rows[0]?.cells ?? [])];
  if (!table.tBodies[0] || table.tBodies[0].rows.length < 3) return;
  // A row without a name belongs to the row above it.
  if ([...table.tBodies[0].rows].some((row) => row.cells[0].innerText.trim() === "")) return;
  heads.forEach((head, column) => {
    if (head.innerText.trim() === "") return;
    const button = document.createElement("button"); // keys and screen readers reach it
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortRows(table, column, descending);
    });
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table").forEach(makeSortable);
});
