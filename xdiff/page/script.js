// Sorts a table by the column whose heading is pressed: numbers highest first, text from A; pressed again, the other way round.
"use strict";

const number = text => /^[-+]?[\d.]/.test(text) ? parseFloat(text.replace(/,/g, "")) : NaN;

// The rows in a new order. value(row): the number or text of the column; direction: 1 lowest or A first, -1 highest or Z first.
// What has no number stays last; equal rows stay in their order.
function ordered(rows, value, direction) {
  const texts = rows.map(value), numeric = texts.some(text => !isNaN(number(text)));
  const compare = (i, j) => {
    if (!numeric) return direction * texts[i].localeCompare(texts[j]);
    const a = number(texts[i]), b = number(texts[j]);
    if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
    return direction * (a - b);
  };
  return rows.map((_, i) => i).sort((i, j) => compare(i, j) || i - j).map(i => rows[i]);
}

function makeSortable(table) {
  const keys = [...table.querySelectorAll("thead tr:last-child th")], body = table.tBodies[0], first = [...body.rows];
  const text = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const names = {"-1": "descending", "1": "ascending"};
  keys.forEach((key, column) => {
    const start = first.some(row => !isNaN(number(text(row, column)))) ? -1 : 1;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...key.childNodes);
    key.append(button);
    button.addEventListener("click", () => {
      const was = key.getAttribute("aria-sort");
      keys.forEach(other => other.removeAttribute("aria-sort"));
      if (was === names[-start]) return body.append(...first);  // third press: the order of the page
      const direction = was ? -start : start;
      key.setAttribute("aria-sort", names[direction]);
      body.append(...ordered(first, row => text(row, column), direction));
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
