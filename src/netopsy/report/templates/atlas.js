"use strict";
(() => {
  const atlas = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const STEP = 24, KEPT = 12, GAP = 2;
  const side = Math.ceil(Math.sqrt(atlas.top));
  const units = atlas.layers.flatMap((layer, l) => layer.units.map((row, i) => ({
    layer, l, i, channel: row[0], group: row[1], strongest: row[2], groups: row[3], figures: row.slice(4),
    part: layer.first + Math.floor(i / layer.each), place: i % layer.each,
  })));
  const lower = atlas.classes.map((name) => name.toLowerCase());
  const parts = new Map(), waiting = new Map();
  let found = [], shown = 0, open = -1;

  const option = (value, text) => { const o = document.createElement("option"); o.value = value; if (text) o.textContent = text; return o; };
  const element = (tag, text) => { const e = document.createElement(tag); e.textContent = text; return e; };
  const named = (name) => /^\d+$/.test(name) ? `class ${name}` : name;
  const number = (value) => value === null ? "–" : String(Number(value.toPrecision(3)));

  at("layer").append(option("", `all ${atlas.layers.length} layers`));
  atlas.layers.forEach((layer, l) => at("layer").append(option(l, `${layer.node} (${layer.units.length})`)));
  at("sort").append(option("channel", "unit"), ...atlas.figures.map((name, k) => option(k, name.replaceAll("_", " "))), option("match", "class matches"));
  at("classes").append(...atlas.classes.slice(0, 2000).map((name) => option(name, "")));

  // A part lies in a file beside the page, as a script: a page that is opened from a disk may read nothing else.
  window.netopsyPart = (id, part) => waiting.get(id)?.(part);

  function load(id) {
    let part = parts.get(id);
    if (part) parts.delete(id); // the ones used last stay
    else part = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      waiting.set(id, resolve);
      script.src = `parts/${atlas.stem}-${id}.js`;
      script.addEventListener("error", () => reject(new Error(`parts/${atlas.stem}-${id}.js is missing`)));
      script.addEventListener("load", () => script.remove());
      document.head.append(script);
    }).then(async (found) => {
      waiting.delete(id);
      if (!found.sheet) return found;
      const image = new Image();
      image.src = "data:image/webp;base64," + found.sheet;
      await image.decode();
      return { ...found, sheet: "", image };
    });
    parts.set(id, part);
    if (parts.size > KEPT) parts.delete(parts.keys().next().value);
    return part;
  }

  const back = (unit) => unit.layer.back && (at("back")?.checked ?? true);

  // Draws the unit's pictures `numbers`, in a grid, at (left, top) of the canvas.
  async function paint(context, unit, numbers, columns, left, top, width, height) {
    const { layer } = unit, [h, w] = layer.tile;
    const { image } = await load(unit.part);
    const first = unit.place * atlas.top * (layer.back ? 2 : 1);
    const across = image.naturalWidth / w;
    context.imageSmoothingEnabled = width < w; // what is enlarged is shown pixel by pixel
    context.imageSmoothingQuality = "high";
    numbers.forEach((n, k) => {
      const tile = first + n;
      context.drawImage(image, (tile % across) * w, Math.floor(tile / across) * h, w, h,
        left + (k % columns) * (width + GAP), top + Math.floor(k / columns) * (height + GAP), width, height);
    });
  }

  function canvasFor(unit, rows, columns, halves, size) {
    const [h, w] = unit.layer.tile, fit = size / Math.max(h, w), scale = fit > 1 ? Math.round(fit) : fit;
    const width = Math.round(w * scale), height = Math.round(h * scale);
    const canvas = document.createElement("canvas");
    canvas.width = halves * columns * (width + GAP) - GAP + (halves - 1) * 6;
    canvas.height = rows * (height + GAP) - GAP;
    return { canvas, width, height };
  }

  const range = (start, count) => Array.from({ length: count }, (_, k) => start + k);

  // A passage as a line of shaded pieces; whatever it holds is text.
  function passage([mark, pieces]) {
    const line = document.createElement("span");
    line.className = "passage";
    pieces.forEach(([text, style], k) => {
      const piece = element("span", text.replaceAll("\n", "⏎"));
      piece.className = style + (k === mark ? " mark" : "");
      line.append(piece);
    });
    return line;
  }

  const isWide = (unit) => unit.layer.tile && unit.layer.tile[1] > 2 * unit.layer.tile[0];

  async function draw(unit, size) {
    const n = unit.groups.length, both = back(unit), part = await load(unit.part);
    if (part.texts.length) {
      const lines = document.createElement("span");
      lines.className = "passages";
      lines.append(...part.texts[unit.place].slice(0, 4).map(passage));
      return lines;
    }
    const wide = isWide(unit), across = wide ? 1 : side, count = wide ? Math.min(n, 4) : n;
    const rows = wide ? Math.min(4, atlas.top) : Math.ceil(atlas.top / side);
    const { canvas, width, height } = canvasFor(unit, rows, across, both ? 2 : 1, wide ? 4 * size : size);
    const context = canvas.getContext("2d");
    await paint(context, unit, range(0, count), across, 0, 0, width, height);
    if (both) await paint(context, unit, range(atlas.top, n), side, side * (width + GAP) + 6, 0, width, height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `The ${n} strongest stimuli of unit ${unit.channel} of ${unit.layer.node}${both ? ", and their reconstructions" : ""}`);
    return canvas;
  }

  function words(unit) {
    const p = document.createElement("p");
    if (atlas.classes.length) p.append(element("strong", unit.group >= 0 ? `class ${atlas.classes[unit.group]}` : "no class"));
    atlas.figures.forEach((figure, k) => {
      if (unit.figures[k] !== null) p.append(`${p.hasChildNodes() ? " · " : ""}${figure.replaceAll("_", " ")} ${number(unit.figures[k])}`);
    });
    return p;
  }

  async function card(unit, position) {
    const article = document.createElement("article");
    article.className = "unit";
    article.append(element("h2", `${unit.layer.node} : ${unit.channel}`));
    const button = document.createElement("button");
    button.type = "button";
    button.append(await draw(unit, 64));
    button.addEventListener("click", () => view(position));
    article.append(button, words(unit));
    return article;
  }

  let turn = 0; // a slower, older drawing must not add its cards to a newer one
  async function more(count = STEP) {
    const mine = turn, start = shown;
    shown = Math.min(found.length, shown + count);
    for (let k = start; k < shown; k += 1) {
      const fresh = await card(found[k], k);
      if (mine !== turn) return;
      at("cards").append(fresh);
    }
    at("more").hidden = shown >= found.length;
  }

  async function matches(unit, wanted) {
    if (!wanted) return 0;
    if (!atlas.classes.length) return ((await load(unit.part)).texts[unit.place] ?? []).filter(([, pieces]) => pieces.map(([t]) => t).join("").toLowerCase().includes(wanted)).length;
    if (at("main-class").checked) return unit.group >= 0 && wanted.has(unit.group) ? unit.groups.length : 0;
    return unit.groups.filter((group) => wanted.has(group)).length;
  }

  async function apply() {
    const mine = ++turn;
    const layer = at("layer").value, channel = at("unit").value, text = at("class").value.trim().toLowerCase();
    const low = at("low").value === "" ? -Infinity : Number(at("low").value);
    const high = at("high").value === "" ? Infinity : Number(at("high").value);
    const exact = lower.indexOf(text);
    const wanted = text && !atlas.classes.length ? text : text && new Set(exact >= 0 ? [exact] : lower.flatMap((name, k) => name.includes(text) ? [k] : []));
    const chosen = [];
    for (const unit of units) {
      if ((layer !== "" && unit.l !== Number(layer)) || (channel !== "" && unit.channel !== Number(channel))) continue;
      if (unit.strongest < low || unit.strongest > high) continue;
      if (wanted) unit.match = await matches(unit, wanted);
      if (!text || unit.match) chosen.push(unit);
    }
    if (mine !== turn) return undefined;
    found = chosen;
    const sort = at("sort").value, sign = Number(at("order").value);
    const key = sort === "channel" ? null : sort === "match" ? (unit) => unit.match ?? 0 : (unit) => unit.figures[sort];
    if (key) {
      const last = (value) => value === null ? sign * Infinity : value; // units without the figure come last
      found.sort((a, b) => { const x = last(key(a)), y = last(key(b)); return x === y ? 0 : sign * (x < y ? -1 : 1); });
    } else if (sign < 0) found.reverse();
    at("cards").replaceChildren();
    at("count").textContent = `${found.length.toLocaleString("en")} of ${units.length.toLocaleString("en")} units${text ? ` with “${text}” among their strongest ${atlas.noun}s` : ""}`;
    at("more").hidden = true;
    shown = 0;
    return more();
  }

  async function view(position) {
    open = position;
    const unit = found[position], both = back(unit);
    at("view-title").textContent = `${unit.layer.node} : ${unit.channel}`;
    at("view-words").replaceChildren(...words(unit).childNodes);
    at("previous").disabled = position === 0;
    at("next").disabled = position === found.length - 1;
    const part = await load(unit.part), stimuli = part.stimuli[unit.place].map((row, k) => [...row, unit.groups[k]]);
    const caption = ([value, image, group], k) => element("figcaption",
      `${k + 1}. ${atlas.classes.length ? (group >= 0 ? named(atlas.classes[group]) : "no class") + " · " : ""}${number(value)} · ${atlas.noun} ${image}`);
    at("view").classList.toggle("lines", part.texts.length > 0 || Boolean(isWide(unit)));
    const figures = await Promise.all(stimuli.map(async (stimulus, k) => {
      if (part.texts.length) {
        const figure = document.createElement("figure");
        figure.append(passage(part.texts[unit.place][k]), caption(stimulus, k));
        return figure;
      }
      const { canvas, width, height } = canvasFor(unit, 1, 1, both ? 2 : 1, isWide(unit) ? 432 : 144);
      const context = canvas.getContext("2d");
      await paint(context, unit, [k], 1, 0, 0, width, height);
      if (both) await paint(context, unit, [atlas.top + k], 1, width + GAP + 6, 0, width, height);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Stimulus ${k + 1}`);
      const figure = document.createElement("figure");
      figure.append(canvas, caption(stimulus, k));
      return figure;
    }));
    if (open !== position) return;
    at("view").replaceChildren(...figures);
    history.replaceState(null, "", `#${encodeURIComponent(`${unit.layer.node}:${unit.channel}`)}`);
    if (!at("unit-view").open) at("unit-view").showModal();
  }

  // The unit that the address names is shown among those of its layer.
  async function follow() {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { return; }
    const unit = units.find((one) => `${one.layer.node}:${one.channel}` === name);
    if (!unit) return;
    at("layer").value = unit.l;
    for (const id of ["class", "unit", "low", "high"]) at(id).value = "";
    await apply();
    await view(found.indexOf(unit));
  }

  const step = (by) => { const next = open + by; if (next >= 0 && next < found.length) view(next); };
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("close").addEventListener("click", () => at("unit-view").close());
  at("unit-view").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  at("more").addEventListener("click", () => more());
  const form = document.querySelector("form.controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.id === "sort") at("order").value = at("sort").value === "channel" ? "1" : "-1";
    apply();
  });
  form.addEventListener("reset", () => setTimeout(apply));
  at("unit-view").addEventListener("close", () => { open = -1; history.replaceState(null, "", location.pathname); });
  window.addEventListener("hashchange", follow);
  if (atlas.layers.length) at("layer").value = atlas.start;
  if (atlas.classes.length && atlas.figures.includes("share")) { at("sort").value = atlas.figures.indexOf("share"); at("order").value = "-1"; }
  apply().then(follow).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
