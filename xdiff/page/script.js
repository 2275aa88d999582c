// Sorts a table by the column whose heading is pressed: numbers highest first, then lowest; what has no number stays last.
"use strict";

// The rows in a new order. value(row): the number or text of the column; direction: -1 highest first, 1 lowest first.
function ordered(rows, value, direction) {
  const number = text => /^[-+]?[\d.]/.test(text) ? parseFloat(text.replace(/,/g, "")) : NaN;
  const texts = rows.map(value), numeric = texts.some(text => !isNaN(number(text)));
  const compare = (i, j) => {
    if (!numeric) return direction * -1 * texts[i].localeCompare(texts[j]);
    const a = number(texts[i]), b = number(texts[j]);
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
    return direction * (a - b);
  };
  return rows.map((_, i) => i).sort((i, j) => compare(i, j) || i - j).map(i => rows[i]);
}

function makeSortable(table) {
  const keys = [...table.querySelectorAll("thead tr:last-child th")], body = table.tBodies[0], first = [...body.rows];
  const text = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  keys.forEach((key, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...key.childNodes);
    key.append(button);
    button.addEventListener("click", () => {
      const was = key.getAttribute("aria-sort");
      keys.forEach(other => other.removeAttribute("aria-sort"));
      if (was === "ascending") return body.append(...first);  // third press: the order of the page
      key.setAttribute("aria-sort", was === "descending" ? "ascending" : "descending");
      body.append(...ordered(first, row => text(row, column), was === "descending" ? 1 : -1));
    });
  });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
// What a link leads to, or what is printed, must not stay folded.
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(details => { details.open = true; }));
unfold();
