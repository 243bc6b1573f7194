"use strict";
(() => {
  const { figures, themes } = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  async function draw(place) {
    const id = place.dataset.figure;
    const theme = themes[dark.matches && !printing ? "dark" : "light"];
    drawn.get(id)?.finalize();
    const figure = figures[id];
    const room = figure.facet ? figure.spec.width + (figure.resolve ? 65 : 25) : 0;  // of a small chart
    const spec = room ? { ...figure, columns: Math.max(1, Math.floor((place.clientWidth - 60) / room)) } : figure;
    const options = { actions: false, ast: true, renderer: "svg", config: theme, tooltip: { theme: dark.matches ? "dark" : "light" } };
    const paper = document.createElement("div"); // may be wider than its place, which then scrolls
    paper.className = /"rect"/.test(JSON.stringify(figures[id])) ? "paper map" : "paper";
    place.replaceChildren(paper);
    drawn.set(id, await vegaEmbed(paper, spec, options));
    const svg = place.querySelector("svg");
    if (svg) {
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", figures[id].description ?? "");
    }
    place.dataset.drawn = "yes";
  }

  function rows(node) {
    if (node === null || typeof node !== "object") return [];
    if (Array.isArray(node.data?.values) && node.data.values.length) return node.data.values;
    const inside = Array.isArray(node) ? node : Object.values(node);
    return inside.reduce((best, part) => { const found = rows(part); return found.length > best.length ? found : best; }, []);
  }

  function tabulate(details) {
    if (!details.open || details.querySelector("table")) return;
    const all = rows(figures[details.dataset.figure]);
    const columns = [...new Set(all.slice(0, 50).flatMap(Object.keys))];
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const column of columns) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = column.replaceAll("_", " ");
      head.append(th);
    }
    const body = table.createTBody();
    for (const row of all.slice(0, 500)) {
      const tr = body.insertRow();
      for (const column of columns) {
        const value = row[column];
        const td = tr.insertCell();
        td.textContent = typeof value === "number" ? Number(value.toPrecision(5)) : value ?? "";
        if (typeof value === "number") td.className = "number";
      }
    }
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    scroll.append(table);
    details.append(scroll);
    if (all.length > 500) details.append(`The first 500 of ${all.length} rows.`);
  }

  let printing = false;
  const places = [...document.querySelectorAll(".vega")];
  const redraw = () => Promise.all(places.map(draw));
  for (const details of document.querySelectorAll("details.data")) {
    details.addEventListener("toggle", () => tabulate(details));
  }
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => { printing = true; redraw(); });
  window.addEventListener("afterprint", () => { printing = false; redraw(); });
  redraw().then(() => { document.documentElement.dataset.ready = "yes"; });
})();
