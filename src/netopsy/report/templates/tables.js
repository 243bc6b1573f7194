"use strict";
// Heads of tables become buttons that sort, and long tables are folded.
(() => {
  const FOLD = 25;
  const value = (row, column) => {
    const cell = row.cells[column], given = cell.dataset.value;
    const text = given === undefined ? cell.textContent.trim() : given;
    const figure = Number(text.replaceAll(",", "").replaceAll("−", "-").replace("∞", "Infinity"));
    return text === "" || text === "–" ? null : Number.isNaN(figure) ? text : figure;
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  function sort(table, column) {
    const head = table.tHead.rows[0].cells, th = head[column], body = table.tBodies[0];
    const first = th.classList.contains("number") ? "descending" : "ascending";
    const order = th.getAttribute("aria-sort") === first ? (first === "ascending" ? "descending" : "ascending") : first;
    for (const other of head) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b));
    body.append(...rows.map(([, row]) => row));
    fold(table);
  }

  function fold(table) {
    if (!table.classList.contains("folded")) return;
    [...table.tBodies[0].rows].forEach((row, k) => row.classList.toggle("beyond", k >= FOLD));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((th, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.textContent;
      button.addEventListener("click", () => sort(table, column));
      th.replaceChildren(button);
    });
    const rows = table.tBodies[0].rows.length;
    if (table.classList.contains("folded") && rows > FOLD) {
      fold(table);
      const all = document.createElement("button");
      all.type = "button";
      all.className = "unfold";
      all.textContent = `Show all ${rows.toLocaleString("en")} rows`;
      all.addEventListener("click", () => { table.classList.remove("folded"); all.remove(); });
      table.parentElement.after(all);
    }
  }
  for (const menu of document.querySelectorAll("details.menu")) {
    menu.addEventListener("keydown", (event) => { if (event.key === "Escape") { menu.open = false; menu.firstElementChild.focus(); } });
    menu.addEventListener("focusout", (event) => { if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false; });
  }
  if (!document.querySelector(".vega")) document.documentElement.dataset.ready = "yes";
})();
