"use strict";
// The strip of layers: its widths and colours are chosen, and the arrow keys go from block to block.
(() => {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent).strip;
  if (!data) return;
  const links = [...document.querySelectorAll("#strip svg a")], svg = document.querySelector("#strip svg");

  function width(name) {
    links.forEach((link, k) => {
      const [left, size] = data.blocks[k].places[name], rect = link.firstElementChild;
      rect.setAttribute("x", left);
      rect.setAttribute("width", size);
    });
    at("strip-lines").replaceChildren(...data.lines[name].map((d) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", d);
      return path;
    }));
  }

  function colour(option) {
    links.forEach((link, k) => {
      const rect = link.firstElementChild, shade = data.blocks[k].shades[option.value];
      rect.classList.toggle("unknown", shade === undefined);
      rect.style.setProperty("--t", `${shade ?? 0}%`);
    });
    svg.dataset.worse = option.dataset.worse;
    at("strip-ramp").className = `ramp ${option.dataset.worse}`;
    at("strip-low").textContent = option.dataset.low;
    at("strip-high").textContent = option.dataset.high;
  }

  at("strip-width")?.addEventListener("change", (event) => width(event.target.value));
  at("strip-colour")?.addEventListener("change", (event) => colour(event.target.selectedOptions[0]));
  const say = (link) => { at("strip-words").textContent = link.getAttribute("aria-label"); };
  links.forEach((link, k) => {
    link.setAttribute("tabindex", k === 0 ? "0" : "-1");
    link.addEventListener("pointerenter", () => say(link));
    link.addEventListener("focus", () => {
      for (const other of links) other.setAttribute("tabindex", other === link ? "0" : "-1");
      say(link);
    });
    link.addEventListener("keydown", (event) => {
      const next = { ArrowRight: k + 1, ArrowLeft: k - 1, Home: 0, End: links.length - 1 }[event.key];
      if (next === undefined || !links[next]) return;
      event.preventDefault();
      links[next].focus();
    });
  });
})();
