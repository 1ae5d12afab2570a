"use strict";
// Draws what the page's data hold; whatever is text there becomes text here, never markup.
const page = JSON.parse(document.getElementById("data").textContent);
const names = Object.keys(page.heads);
const overview = document.getElementById("overview");
const view = document.getElementById("head");
const READINGS = { raw: "Raw: singular vectors", balanced: "Balanced: as the data see the head" };

function built(node, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const h = (tag, given = {}, ...children) => built(document.createElement(tag), given, children);
const s = (tag, given = {}, ...children) =>
  built(document.createElementNS("http://www.w3.org/2000/svg", tag), given, children);

const number = (x, digits = 3) => (x === null || x === undefined ? "–" : String(Number(x.toPrecision(digits))));
const percent = (x) => (x === null || x === undefined ? "–" : `${number(100 * x, 2)} %`);
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥") || "·";
const quoted = (text) => `“${visible(text).trim() || visible(text)}”`;

// ---- the table of all heads

function sortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const value = (row) => {
      const cell = row.cells[column];
      if (cell.tagName === "TH") return rows.indexOf(row);
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    header.firstElementChild.addEventListener("click", () => {
      const order = header.ariaSort === "ascending" ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      header.ariaSort = order;
      const sign = order === "ascending" ? 1 : -1;
      body.append(...[...rows].sort((a, b) => compared(value(a), value(b), sign)));
    });
  });
}

// what is no number comes last, whichever way
function compared(a, b, sign) {
  if (typeof a === "string") return sign * a.localeCompare(b);
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return sign * (a - b);
}

// ---- parts of the view of a head

function part(id, title, name, ...content) {
  const [layer, head] = name.split(".");
  const why = page.without[id];
  const call = page.calls[{ written: "readout" }[id] ?? id];
  return h("section", { "aria-labelledby": `${id}-title`, id },
    h("h2", { id: `${id}-title` }, title),
    call && page.asked[id] && h("p", { class: "note" }, page.asked[id]),
    page.caveats[id] && h("p", { class: "note" }, page.caveats[id]),
    why ? h("p", { class: "note" }, `Not here: ${why.replace(/\.$/, "")}.`) : call ? content : h("p", { class: "note" }, "Not looked at."),
    call && h("p", { class: "call" }, "Found by ", h("code", {}, id === "trace" ? call : `${call}.sel(layer=${layer}, head=${head})`)));
}

function table(rows, label) {
  if (!rows.length) return null;
  const columns = Object.keys(rows[0]);
  const text = (column) => (rows.every((row) => row[column] === "-" || !Number.isNaN(Number(row[column]))) ? null : "text");
  const line = (row) => h("tr", {}, columns.map((column, i) =>
    h(i ? "td" : "th", { class: text(column), scope: i ? null : "row" }, row[column])));
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: text(column) }, column)))),
      h("tbody", {}, rows.map(line))));
}

const folded = (title, ...content) => h("details", {}, h("summary", {}, title), content);

// what an instrument says of a head: columns that stand open, others folded, and what all of them say
function told(id, name, label) {
  const { open, folded: more } = page.heads[name].tables[id] ?? { open: [], folded: [] };
  const columns = page.columns[id] ?? {};
  const said = (names) => h("dl", {}, names.filter((column) => columns[column]).map((column) =>
    [h("dt", {}, column), h("dd", {}, columns[column])]));
  const single = !open.length || open[0].reading;
  return [table(open, label),
    open.length > 0 && folded("What the columns say", said(Object.keys(open[0]))),
    single ? more.length > 0 && folded(open.length ? "More numbers" : "In numbers", facts(more[0], columns))
      : folded("More columns", table(more, `${label}, more`), said(Object.keys(more[0]).slice(1)))];
}

function facts(row, columns) {
  const about = (name) => columns[name] ?? columns[name.split(": ").pop()];
  return h("dl", { class: "facts" }, Object.entries(row).map(([name, value]) =>
    [h("dt", {}, name), h("dd", {}, h("b", {}, value), about(name) && h("span", { class: "number" }, ` ${about(name)}`))]));
}

// moves a cursor with a pointer or the arrow keys: `at(event)` is where a pointer is, `step(dx, dy)` where keys lead
function steered(node, { at, step, go, enter = () => {} }) {
  const point = (event) => { const place = at(event); if (place) go(...place); return place; };
  node.addEventListener("pointermove", point);
  node.addEventListener("click", (event) => point(event) && enter());
  node.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (dx || dy) go(...step(dx, dy));
    else if (event.key === "Enter" || event.key === " ") enter();
    else return;
    event.preventDefault();
  });
}

function spectrum(name) {
  const panels = Object.entries(page.heads[name].spectrum).map(([reading, here]) => panel(reading, here));
  return part("spectra", "Spectrum", name, h("div", { class: "beside" }, panels),
    h("p", { class: "note" }, "Values over the largest; hollow points cannot be named (T14). Line: Gaussian factors of this shape. ",
      "Dashed: how many hold 90 % of the sum of squares."),
    told("spectra", name, "spectrum in numbers"));
}

function panel(reading, here) {
  const [left, top, width, height] = [34, 8, 400, 190];
  const count = here.value.length;
  const x = (k) => left + ((k + 0.5) / count) * width;
  const y = (value) => top + height * (1 - value);
  const relative = here.value.map((value) => (here.value[0] ? value / here.value[0] : 0));
  const told = h("output", { "aria-live": "polite" });
  const cursor = s("circle", { class: "cursor", r: 6, visibility: "hidden" });
  let chosen = 0;
  const go = (k) => {
    chosen = Math.max(0, Math.min(count - 1, k));
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("cx", x(chosen));
    cursor.setAttribute("cy", y(relative[chosen]));
    const named = here.named[chosen] ? "can be named" : "cannot be named alone";
    told.textContent = `${chosen + 1} of ${count}: ${number(here.value[chosen])}, ${number(relative[chosen])} of the largest; gap ${number(here.gap[chosen])}; ${named}`;
  };
  const chance = here.gaussian.flatMap((value, k) => (value === null ? [] : [`${x(k)},${y(value)}`]));
  const drawing = s("svg", { viewBox: `0 0 ${left + width + 8} ${top + height + 34}`, tabindex: 0, role: "application",
    class: reading, "aria-label": `spectrum, ${reading}: arrow keys go through the values` },
    [0, 0.5, 1].map((level) => [s("line", { class: "axis", x1: left, x2: left + width, y1: y(level), y2: y(level) }),
      s("text", { x: left - 6, y: y(level) + 4, "text-anchor": "end" }, level)]),
    s("line", { class: "enough", x1: x(here.enough - 0.5), x2: x(here.enough - 0.5), y1: top, y2: top + height }),
    s("text", { x: x(here.enough - 0.5) + 4, y: top + 10 }, `90 %: ${here.enough}`),
    s("polyline", { class: "chance", points: chance.join(" ") }),
    relative.map((value, k) => s("circle", { class: here.named[k] ? "point" : "point unnamed", r: count > 40 ? 2.2 : 3.2, cx: x(k), cy: y(value) })),
    cursor,
    [0, count - 1].map((k) => s("text", { x: x(k), y: top + height + 15, "text-anchor": "middle" }, k + 1)),
    s("text", { x: left + width / 2, y: top + height + 28, "text-anchor": "middle" }, reading === "raw" ? "singular pair" : "mode"));
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * (left + width + 8);
    return [Math.floor(((across - left) / width) * count)];
  };
  steered(drawing, { at, go, step: (dx, dy) => [chosen + dx - dy] });
  return h("figure", {}, h("h3", { class: reading }, READINGS[reading]), drawing, told);
}

// ---- attention, and the decision that is chosen there

function attention(name, decision) {
  const head = page.heads[name];
  if (!head.attention) return part("attention", "Attention", name);
  const place = h("div");
  const buttons = head.attention.map((_, i) =>
    h("button", { type: "button", onclick: () => show(i), "aria-pressed": "false" }, `sequence ${i}`));
  const show = (i, query, key) => {
    if (!head.attention[i]) return place.replaceChildren(h("p", { class: "note" }, `Of sequence ${i} attention is not drawn.`));
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
    place.replaceChildren(...matrix(name, i, query, key));
  };
  show(...(decision ?? [0]));
  return part("attention", "Attention", name,
    buttons.length > 1 && h("div", { class: "choices" }, buttons), place,
    h("p", { class: "note" }, "Rows are queries, columns keys, shaded by the root of the weight. Point at a cell or a token, or use the arrow keys; ",
      "a click, or Enter, chooses the decision; dots are traced."));
}

function matrix(name, sequence, query, key) {
  const weights = page.heads[name].attention[sequence];
  const tokens = page.sequences[sequence];
  const n = weights.length;
  const weight = (q, k) => (weights[q][k] ?? 0) / 1000;
  const strongest = (q) => weights[q].indexOf(Math.max(...weights[q]));
  const told = h("output", { "aria-live": "polite", class: "weight" });
  const cursor = s("rect", { class: "cursor", width: 1, height: 1 });
  const spans = tokens.slice(0, n).map((text, i) =>
    h("span", { class: "token", onpointerenter: () => go(i, strongest(i)), onclick: () => choose() }, visible(text)));
  let [q, k] = [n - 1, strongest(n - 1)];
  const go = (toQuery, toKey) => {
    q = Math.max(0, Math.min(n - 1, toQuery));
    k = Math.max(0, Math.min(n - 1, toKey));
    cursor.setAttribute("x", k);
    cursor.setAttribute("y", q);
    spans.forEach((span, i) => {
      span.style.setProperty("--weight", Math.sqrt(weight(q, i)));
      span.classList.toggle("query", i === q);
      span.classList.toggle("key", i === k);
    });
    const most = strongest(q) === k ? ", the largest of this query" : "";
    told.textContent = `query ${q} ${quoted(tokens[q])}, key ${k} ${quoted(tokens[k])}: weight ${weight(q, k).toFixed(3)}${most}`;
  };
  const choose = () => { location.hash = [name, sequence, q, k].join("/"); };
  const own = page.decisions.filter((d) => `${d.layer}.${d.head}` === name && d.sequence === sequence);
  const cells = weights.flatMap((row, i) => row.flatMap((value, j) =>
    (value ? [s("rect", { class: "weight", x: j, y: i, width: 1, height: 1, "fill-opacity": Math.sqrt(value / 1000) })] : [])));
  const drawing = s("svg", { viewBox: `0 0 ${n} ${n}`, class: "matrix", tabindex: 0, role: "application",
    "shape-rendering": "crispEdges", "aria-label": "attention: arrow keys move query and key, Enter chooses the decision" },
    cells, own.map((d) => s("circle", { class: "traced", cx: d.key + 0.5, cy: d.query + 0.5, r: 0.2 })), cursor);
  drawing.style.maxWidth = `${Math.max(12, Math.min(36, 2 * n))}rem`;
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    const place = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width].map((x) => Math.floor(x * n));
    return place.every((i) => i >= 0 && i < n) ? place : null;
  };
  steered(drawing, { at, go, step: (dx, dy) => [q + dy, k + dx], enter: choose });
  go(query ?? q, key ?? (query === undefined ? k : strongest(query)));
  return [told, h("div", { class: "beside" }, h("figure", {}, drawing),
    h("p", { class: page.text ? "tokens" : "tokens ids" }, spans))];
}

// ---- what modes read and write

const several = ([first, last], word) => (first === last ? `${word} ${first}` : `${word}s ${first} to ${last}, together`);

function modes(name) {
  const readings = Object.entries(page.heads[name].modes ?? {}).filter(([, all]) => all.length);
  if (!readings.length) return part("readout", "What its modes read", name);
  const place = h("div");
  const buttons = readings.map(([reading], i) => h("button", { type: "button", onclick: () => show(i) }, READINGS[reading]));
  const show = (i) => {
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
    const word = readings[i][0] === "raw" ? "pair" : "mode";
    place.replaceChildren(...readings[i][1].map((mode, k) => modeView(mode, word, k === 0)));
  };
  show(readings.length - 1);
  return part("readout", "What its modes read", name, h("div", { class: "choices" }, buttons), place,
    h("p", { class: "note" }, "Tokens in context that move a mode most, with their coordinate: the same end of both sides ",
      "raises the score. Chance is what the largest of as many random cosines would be; grey is what does not pass it."));
}

function modeView(mode, word, open) {
  const sides = ["query", "key"].map((side) => h("div", {}, h("h3", {}, side === "query" ? "Queries" : "Keys"),
    ["top", "bottom"].map((end) => endView(mode[side][end], end, mode[side].chance))));
  return h("details", { class: "mode", open },
    h("summary", {}, h("b", {}, several(mode.pairs, word)), h("span", {}, `value ${number(mode.value)}`),
      h("span", {}, `${percent(mode.variance_share)} of variance`),
      h("span", {}, `${percent(mode.decision_share)} of decisions change without it`)),
    h("div", { class: "beside" }, sides));
}

function endView(end, title, chance) {
  if (!end.contexts.length) return null;
  return h("div", {}, h("h4", {}, title),
    h("ul", { class: "contexts" }, end.contexts.map(([sequence, position, coordinate]) =>
      h("li", {}, h("span", { class: "number" }, number(coordinate, 2)), h("span", {}, marked(sequence, position))))),
    near("nearest embeddings", end.embedding, chance.embedding), near("nearest features", end.feature, chance.feature));
}

// a token where it stands, what is before it and a little of what follows
function marked(sequence, position) {
  const tokens = page.sequences[sequence].map(visible);
  const gap = page.text ? "" : " ";
  const before = tokens.slice(Math.max(0, position - 8), position).join(gap);
  const after = tokens.slice(position + 1, position + 4).join(gap);
  return [position > 8 ? "…" : "", before, before && gap, h("mark", {}, tokens[position]), gap, after];
}

function near(title, found, chance, size = "chance") {
  if (!found?.length) return null;
  const known = chance !== null && chance !== undefined;
  const above = ([, value]) => !known || Math.abs(value) > chance;
  const listed = found.map((one, i) => [i ? ", " : "",
    h("span", { class: above(one) ? null : "below" }, `${quoted(one[0])} ${number(one[1], 2)}`)]);
  return h("p", { class: "near" }, `${title}: `, found.some(above) ? listed : "none above chance",
    !known ? "" : h("span", { class: "number" }, ` (${size} ${number(chance, 2)})`));
}

function written(name) {
  const all = page.heads[name].written ?? [];
  return part("written", "What it writes", name, all.map((mode, k) => h("details", { class: "mode", open: k === 0 },
    h("summary", {}, h("b", {}, several(mode.pairs, "mode")), h("span", {}, `value ${number(mode.value)}`),
      h("span", {}, `${percent(mode.variance_share)} of variance`)),
    h("div", { class: "beside" }, ["top", "bottom"].map((end) => h("div", {},
      endView(mode.reads[end], `reads, ${end}`, mode.chance),
      mode.writes.map((write) => near("writes towards", write[end], write.chance)))))),
  ), h("p", { class: "note" }, "Of tokens that are attended to; towards: logits of one standard deviation, before the final norm's scale."));
}

// ---- the trace of a decision

const address = (d) => [`${d.layer}.${d.head}`, d.sequence, d.query, d.key].join("/");
const traced = new Map(page.decisions.map((d) => [address(d), d]));

function trace(name, decision) {
  const chosen = decision && traced.get([name, ...decision].join("/"));
  const own = page.decisions.filter((d) => `${d.layer}.${d.head}` === name);
  const links = own.map((d) => h("a", { href: `#${address(d)}`, "aria-current": d === chosen ? "true" : null },
    `${d.sequence}: ${d.query} → ${d.key}`));
  const [layer, head] = name.split(".");
  const model = page.calls.trace?.includes("model=model") ? ", model=model" : "";
  const content = chosen ? tracedView(chosen) : !decision ? h("p", {}, "Choose a decision, above or here.")
    : h("p", {}, unseen(name, ...decision) ?? ["This decision was not traced; ",
      h("code", {}, `trace.survey(bundle, decisions=[[${[layer, head, ...decision].join(", ")}]]${model})`), " does."]);
  return part("trace", "Trace of a decision", name, content,
    links.length > 0 && h("p", { class: "links" }, "Traced of this head, sequence: query → key. ", links));
}

// why there is no such decision, if there is none
function unseen(name, sequence, query, key) {
  const length = page.sequences[sequence]?.length;
  const { window } = page.heads[name];
  if (length === undefined) return `There is no sequence ${sequence}.`;
  if (Math.max(query, key) >= length) return `Sequence ${sequence} has no position ${Math.max(query, key)}.`;
  if (key > query) return `Query ${query} does not see key ${key}, which comes later.`;
  return query - key >= window ? `Query ${query} does not see key ${key}, which lies outside its window of ${window} positions.` : null;
}

function tracedView(d) {
  const tokens = page.sequences[d.sequence];
  const told = `Query ${d.query} ${quoted(tokens[d.query])} to key ${d.key} ${quoted(tokens[d.key])}: score ${number(d.score)}, weight ${number(d.weight)}.`;
  const size = Math.max(...Object.values(d.sides).flatMap((side) => side.components.map((c) => Math.abs(c[4]))));
  return [h("p", { class: "answer", tabindex: -1 }, told),
    h("div", { class: "beside" }, Object.entries(d.sides).map(([side, found]) =>
      componentsOf(d, side, found, size))),
    h("details", {}, h("summary", {}, "Both sides at once, and by mode"), tableOf(d), byMode(d))];
}

function componentsOf(d, side, found, size) {
  const line = (label, value) => h("tr", {}, h("th", { scope: "row", class: "text" }, label),
    h("td", {}, number(value)), h("td", { class: "text" }, bar(size && value / size)));
  const rest = found.count - found.components.length;
  return h("div", {}, h("h3", {}, `Read at the ${side}, position ${d[side]}`), h("div", { class: "wide" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "text" }, "written by"), h("th", { scope: "col" }, "to the score"), h("th"))),
    h("tbody", {}, found.components.map((c) => line(writer(d, side, c), c[4])),
      rest > 0 && line(`${rest} others`, found.remainder), line("score", d.score)))));
}

function writer(d, side, [kind, layer, head, source]) {
  const tokens = page.sequences[d.sequence];
  if (kind === "head") {
    const to = `#${[`${layer}.${head}`, d.sequence, d[side], source].join("/")}`;
    return [h("a", { href: to }, `head ${layer}.${head}`), ` from ${source} ${quoted(tokens[source])}`];
  }
  if (kind === "embedding") return `embedding of ${quoted(tokens[d[side]])}`;
  return layer < 0 ? kind : `${kind} ${layer}`;
}

function bar(share) {
  const node = h("span", { class: share < 0 ? "bar less" : "bar" });
  node.style.width = `${5 * Math.min(1, Math.abs(share))}rem`;
  return node;
}

function tableOf(d) {
  const names = (side) => [...d.sides[side].components.map((c) => (c[0] === "head" ? `${c[1]}.${c[2]} from ${c[3]}` : c[1] < 0 ? c[0] : `${c[0]} ${c[1]}`)), "others"];
  const [queries, keys] = [names("query"), names("key")];
  const rows = d.table.map((row, i) => [i, row]).filter(([i]) => i < queries.length - 1 || i === d.table.length - 1);
  const size = Math.max(...d.table.flat().map(Math.abs));
  const told = (x) => (Math.abs(x) < size / 1000 ? "~0" : number(x, 2));
  const kept = (list, count) => list.filter((_, j) => j < count - 1 || j === list.length - 1);
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "query components by key components" },
    h("table", { class: "cells" }, h("caption", { class: "note" }, "Rows: what is read at the query; columns: at the key; ~0 is below a thousandth of the largest"),
      h("thead", {}, h("tr", {}, h("th"), keys.map((key) => h("th", { scope: "col" }, key)))),
      h("tbody", {}, rows.map(([, row], i) => h("tr", {}, h("th", { scope: "row" }, queries[i]),
        kept(row, keys.length).map((value) => h("td", {}, told(value))))))));
}

function byMode(d) {
  return Object.entries(d.modes).map(([reading, scores]) => h("p", { class: "near" }, h("span", { class: reading }, READINGS[reading]), ": ",
    scores.map((score, k) => `${reading === "raw" ? "pair" : "mode"} ${k + 1}: ${number(score)}`).join(", ")));
}

// ---- which head, which decision: the address says it

function headView(name, decision) {
  const head = page.heads[name];
  return [
    h("h1", { tabindex: -1 }, `Head ${name}`),
    head.verdicts.map((verdict) => h("p", { class: "answer" }, verdict)),
    spectrum(name),
    modes(name),
    attention(name, decision),
    trace(name, decision),
    written(name),
    part("cause", "What it causes", name, told("cause", name, "effects of removing directions")),
    part("explain", "Hypotheses", name, told("explain", name, "hypotheses")),
    part("sad", "Sparseness", name, told("sad", name, "sparseness")),
  ].flat();
}

function navigation(name) {
  const i = names.indexOf(name);
  const link = (j, text) => (names[j] === undefined ? null : h("a", { href: `#${names[j]}` }, `${text} ${names[j]}`));
  return i < 0 ? [] : [h("a", { href: "#" }, "all heads"), link(i - 1, "←"), link(i + 1, "→")].filter(Boolean);
}

function route() {
  const [name, ...place] = location.hash.slice(1).split("/");
  const known = Object.hasOwn(page.heads, name);
  const decision = place.length === 3 && place.every((x) => /^\d+$/.test(x)) ? place.map(Number) : undefined;
  overview.hidden = known;
  view.hidden = !known;
  document.title = known ? `Head ${name} of ${page.name}` : `${page.name}: heads`;
  document.getElementById("nav").replaceChildren(...navigation(name));
  if (known && view.dataset.name === name) return chosen(name, decision);
  if (!known) return;
  view.dataset.name = name;
  view.replaceChildren(...headView(name, decision));
  window.scrollTo(0, 0);
  view.querySelector("h1").focus({ preventScroll: true });
}

// another decision of the head that is shown
function chosen(name, decision) {
  if (!decision) return;
  for (const [id, made] of [["attention", attention], ["trace", trace]]) document.getElementById(id).replaceWith(made(name, decision));
  document.querySelector("#trace .answer")?.focus();
}

// ---- light and dark

function theme() {
  const button = document.getElementById("theme");
  const order = ["as the system", "light", "dark"];
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(document.documentElement.dataset.theme ?? order[0]) + 1) % order.length];
    if (next === order[0]) delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    button.textContent = `Theme: ${next}`;
  });
}

// without touching the address, which says what is shown
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
theme();
sortable(document.getElementById("heads"));
addEventListener("hashchange", route);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((node) => { node.open = true; }));
route();
