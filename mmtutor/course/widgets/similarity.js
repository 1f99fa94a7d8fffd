// Similarity explorer: captions against pictures, the contrastive loss of the table, and which way it pulls every pair.
// One ES module in anywidget's form, with no dependency. The mathematics is exported and held to torch by tests.

// ---- shared: the same text in every figure, held equal by a test
const STYLE = `
.mmt{color-scheme:light dark;--ground:light-dark(#fff,#171a1f);--ink:light-dark(#1b1b1b,#f1f1f1);--soft:light-dark(#555,#b6bcc6);
--line:light-dark(#d3d7dd,#414853);--fill:light-dark(#f3f5f8,#22272e);--cool:light-dark(#0072b2,#56b4e9);--warm:light-dark(#d55e00,#e69f00);
font:14px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--ground);border:1px solid var(--line);border-radius:10px;
padding:12px 14px;box-sizing:border-box;max-width:780px;text-align:left}
[data-theme=light] .mmt,[data-jp-theme-light=true] .mmt{color-scheme:light}
[data-theme=dark] .mmt,[data-jp-theme-light=false] .mmt,.vscode-dark .mmt{color-scheme:dark}
.mmt *{box-sizing:border-box}.mmt svg{display:block;width:100%;overflow:visible}.mmt svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.mmt .soft,.mmt svg .soft{color:var(--soft);fill:var(--soft)}.mmt .row{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:center;margin:0 0 10px}
.mmt label{display:inline-flex;gap:6px;align-items:center;margin:0;font-weight:400}.mmt input{accent-color:var(--cool);margin:0}
.mmt input[type=range]{width:150px;height:22px}.mmt input[type=checkbox]{width:18px;height:18px}.mmt output{min-width:3.2em;font-variant-numeric:tabular-nums}
.mmt button,.mmt select{font:inherit;color:var(--ink);background:var(--fill);border:1px solid var(--line);border-radius:6px;padding:3px 10px;min-height:28px;cursor:pointer}
.mmt :focus-visible{outline:3px solid var(--warm);outline-offset:2px}.mmt .head{font-weight:600;margin:0 0 2px}.mmt p{margin:8px 0 0;max-width:none}
.mmt details{margin-top:8px}.mmt summary{cursor:pointer;color:var(--soft)}.mmt .scroll{overflow-x:auto;max-height:320px}
.mmt table{border-collapse:collapse;font-size:13px;display:table;margin:6px 0 0}.mmt caption{text-align:left;color:var(--soft);caption-side:top;padding:0 0 4px}
.mmt th,.mmt td{padding:2px 10px 2px 0;border:0;border-bottom:1px solid var(--line);text-align:left;background:none;color:inherit;font-variant-numeric:tabular-nums}
`;
const SVG = new Set(["svg", "g", "rect", "line", "path", "circle", "text"]);
// An element of HTML or SVG: `text` is its content, `on…` its listeners, everything else an attribute.
function make(tag, given = {}, ...kids) {
  const e = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  return e.append(...kids), set(e, given);
}
function set(e, given) {
  for (const [name, value] of Object.entries(given)) {
    if (name === "text") { if (e.textContent !== String(value)) e.textContent = value; }
    else if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === false || value == null) e.removeAttribute(name);
    else e.setAttribute(name, value === true ? "" : value);
  }
  return e;
}
function slider(label, range, input) {
  const bar = make("input", { type: "range", ...range, oninput: () => input(Number(bar.value)) }), out = make("output");
  const show = (value, text) => { bar.value = value; set(bar, { "aria-valuetext": text }); set(out, { text }); };
  return { show, bar, part: make("label", {}, make("span", { text: label }), bar, out) };
}
function table(caption, heads, rows) {
  const line = (kind, cells) => make("tr", {}, ...cells.map((text, i) => i && kind === "td" ? make("td", { text })
    : make("th", { text, scope: kind === "td" ? "row" : "col" })));
  return make("table", {}, make("caption", { text: caption }), make("thead", {}, line("th", heads)),
    make("tbody", {}, ...rows.map(r => line("td", r))));
}
// The frame of a figure: draws now, when a value of the model changes and when the width does; returns the way to end it.
function frame(model, el, label, names, parts, draw) {
  const numbers = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "the numbers" });
  const root = make("div", { class: "mmt", role: "group", "aria-label": label }, make("style", { text: STYLE }), ...parts,
    make("details", {}, make("summary", { text: "The numbers" }), numbers));
  const redraw = () => root.isConnected && numbers.replaceChildren(draw());
  let width = 0;
  const watch = new ResizeObserver(() => { if (root.clientWidth !== width) { width = root.clientWidth; redraw(); } });
  names.forEach(n => model.on("change:" + n, redraw));
  el.append(root), redraw(), watch.observe(root);
  return () => { watch.disconnect(); names.forEach(n => model.off("change:" + n, redraw)); root.remove(); };
}
const put = (model, values) => { for (const n in values) model.set(n, values[n]); model.save_changes(); };
const number = (x, digits = 2) => (Math.abs(x) < 0.5 / 10 ** digits ? 0 : x).toFixed(digits).replace("-", "\u2212");
// ---- end of the shared part

const logSum = z => { const top = Math.max(...z); return top + Math.log(z.reduce((s, v) => s + Math.exp(v - top), 0)); };
const softplus = x => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), sum = list => list.reduce((a, b) => a + b, 0);
// Whether the cells (i, j) and (j, i) are marked: the two items are the same thing.
export const marked = (same, i, j) => same.some(([a, b]) => (a === i && b === j) || (a === j && b === i));
// The loss of a table of cosines, of its rows and columns, and its slope for every cosine. Pairs are on the diagonal.
// "clip": Radford et al. 2021, figure 3; "siglip": Zhai et al. 2023, algorithm 1. Cells of `out` are left out.
export function contrast(cosines, { loss, temperature, bias }, out = []) {
  const n = cosines.length, all = [...cosines.keys()], each = cell => all.map(i => all.map(j => cell(i, j)));
  const scale = loss === "clip" ? Math.min(1 / temperature, 100) : 1 / temperature, gone = (i, j) => marked(out, i, j);
  let p, q, rows, columns, gradient;
  if (loss === "siglip") {
    const z = (i, j) => scale * cosines[i][j] + bias, cost = each((i, j) => gone(i, j) ? 0 : softplus(i === j ? -z(i, j) : z(i, j)));
    p = q = each((i, j) => Math.exp(-softplus(-z(i, j))));
    rows = all.map(i => sum(cost[i])), columns = all.map(j => sum(cost.map(r => r[j])));
    gradient = each((i, j) => gone(i, j) ? 0 : (p[i][j] - (i === j)) * scale / n);
  } else {
    const z = each((i, j) => gone(i, j) ? -Infinity : scale * cosines[i][j]);
    const across = z.map(logSum), down = all.map(j => logSum(z.map(r => r[j])));
    p = each((i, j) => Math.exp(z[i][j] - across[i])), q = each((i, j) => Math.exp(z[i][j] - down[j]));
    rows = all.map(i => across[i] - z[i][i]), columns = all.map(j => down[j] - z[j][j]);
    gradient = each((i, j) => (p[i][j] + q[i][j] - 2 * (i === j)) * scale / (2 * n));
  }
  return { scale, loss: (sum(rows) + sum(columns)) / (2 * n), rows, columns, p, q, gradient };
}

const MORE = `
.mmt .two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:12px 20px}.mmt [hidden]{display:none!important}
.mmt button[aria-pressed=true]{border-color:var(--warm);box-shadow:0 0 0 1px var(--warm)}.mmt button:disabled{cursor:default;color:var(--soft)}
.mmt .grid{display:grid;gap:2px;font-size:11px;line-height:1.15;font-variant-numeric:tabular-nums}.mmt .line{display:contents}
.mmt .name{align-self:center;text-align:right;padding-right:4px;overflow-wrap:anywhere}.mmt .top{place-self:end center}
.mmt .tall{writing-mode:vertical-rl;transform:rotate(180deg);max-height:96px;overflow:hidden}.mmt .top img{display:block;width:100%;max-width:34px}
.mmt .cell{position:relative;height:30px;display:flex;align-items:center;justify-content:center;border-radius:3px;cursor:pointer;white-space:nowrap;
background:color-mix(in srgb,var(--hue) calc(var(--w)*46%),var(--ground));border:1px solid var(--line)}
.mmt .pair{font-weight:700;border-color:var(--ink)}.mmt .same::after{content:"";position:absolute;inset:1px;border:2px dashed var(--ink)}
.mmt .cell[aria-selected=true]{outline:3px solid var(--warm);z-index:1}.mmt .cell:focus-visible{outline:3px solid var(--ink);z-index:2}
.mmt .part{align-self:center;text-align:right;padding:3px 2px;background:linear-gradient(var(--to),color-mix(in srgb,var(--warm) 34%,var(--ground)) calc(var(--w,0)*100%),transparent 0)}
.mmt .big{font-size:20px}`;
const LOW = Math.log10(0.002), HIGH = Math.log10(2), COOL = "var(--cool)", WARM = "var(--warm)";
// A number in four characters: 0.104 is .10, 12.5 is 13.
const short = (x, digits = 2) => number(x, Math.abs(x) >= 9.95 ? 0 : Math.abs(x) >= 0.995 ? 1 : digits).replace("0.", ".").replace(/^\u2212?\.0+$/, "0");

function render({ model, el }) {
  const get = n => model.get(n), NAMES = "similarity captions pictures images temperature loss bias same left_out view row column".split(" "), first = Object.fromEntries(NAMES.map(n => [n, get(n)]));
  const press = (text, value) => make("button", { type: "button", text, onclick: () => put(model, value()) }), div = (more, ...kids) => make("div", more, ...kids);
  const losses = ["CLIP", "SigLIP"].map(text => press(text, () => ({ loss: text.toLowerCase() }))), views = ["cosine", "row", "column"].map(view => press("", () => ({ view })));
  const heat = slider("temperature", { min: LOW, max: HIGH, step: 0.01 }, v => put(model, { temperature: Number(Math.min(2, Math.max(0.002, 10 ** v)).toPrecision(3)) }));
  const shift = slider("bias", { min: -20, max: 0, step: 0.5 }, bias => put(model, { bias }));
  const box = make("input", { type: "checkbox", onchange: () => put(model, { left_out: box.checked }) }), boxText = make("span");
  const mark = press("", () => toggle(get("row"), get("column"))), leftHead = div({ class: "head" });
  const grids = ["what the model says", "slope of the loss"].map(name => div({ class: "grid", role: "grid", "aria-label": name }));
  const chart = make("svg", { role: "img", style: "overflow:hidden" }), big = div({ class: "big" }), says = make("p"), tells = make("p");
  let cells = [], ends = [], built = "";

  function toggle(i, j) {
    const pair = [Math.min(i, j), Math.max(i, j)], rest = get("same").filter(([a, b]) => a !== pair[0] || b !== pair[1]);
    return i === j ? {} : { same: rest.length < get("same").length ? rest : [...rest, pair].sort((a, b) => a[0] - b[0] || a[1] - b[1]) };
  }
  const choose = (row, column, side) => {
    if (row !== get("row") || column !== get("column")) put(model, { row, column });
    if (side !== undefined) cells[side][row][column].focus();
  };
  const key = (event, i, j, side) => {
    const last = get("captions").length - 1, to = { ArrowRight: [i, j + 1], ArrowLeft: [i, j - 1], ArrowDown: [i + 1, j], ArrowUp: [i - 1, j], Home: [i, 0], End: [i, last] }[event.key];
    if (to) choose(...to.map(v => Math.min(last, Math.max(0, v))), side);
    else if (event.key === "Enter" || event.key === " ") put(model, toggle(i, j));
    else return;
    event.preventDefault();
  };
  function build(captions, pictures, images) {
    const line = (...kids) => div({ role: "row", class: "line" }, ...kids), head = (more, ...kids) => div({ role: "columnheader", class: "top", ...more }, ...kids), name = text => div({ role: "rowheader", class: "name", text });
    ends = [0, 1].map(k => [...captions, 0].slice(k).map(() => div({ role: "gridcell", class: "part", style: `--to:to ${k ? "left" : "top"};${k ? "" : "text-align:center"}` })));
    grids.forEach((grid, side) => {
      grid.style.gridTemplateColumns = `minmax(50px,74px) repeat(${captions.length},minmax(0,1fr))${side ? "" : " 32px"}`;
      cells[side] = captions.map((_, i) => pictures.map((_, j) => div({ role: "gridcell", onclick: () => choose(i, j, side), onfocus: () => choose(i, j), onkeydown: e => key(e, i, j, side) })));
      const top = pictures.map((text, j) => images.length ? head({ title: text }, make("img", { src: images[j], alt: text })) : head({ class: "top tall", text }));
      grid.replaceChildren(line(head({ text: "caption" }), ...top, ...(side ? [] : [head({ text: "loss" })])),
        ...captions.map((text, i) => line(name(text), ...cells[side][i], ...(side ? [] : [ends[1][i]]))), ...(side ? [] : [line(name("loss"), ...ends[0])]));
    });
  }
  function paint(side, i, j, text, strength, value) {
    const twin = marked(get("same"), i, j), here = i === get("row") && j === get("column");
    set(cells[side][i][j], { class: `cell${i === j ? " pair" : ""}${twin ? " same" : ""}`, tabindex: here ? 0 : -1, "aria-selected": String(here), text, style: `--w:${strength.toFixed(3)};--hue:${value < 0 === !!side ? COOL : WARM}`,
      "aria-label": `${get("captions")[i]}, picture of ${get("pictures")[j]}: ${text === "\u2013" ? "left out" : number(value, 3)}${i === j ? ", the pair" : twin ? ", marked as the same" : ""}` });
  }
  // The loss against the temperature, on a logarithmic axis; dashed without the marked cells.
  function curve(found, settings, same) {
    const W = chart.clientWidth || 320, H = 150, L = 34, R = W - 8, B = H - 32, x = t => L + (R - L) * (Math.log10(t) - LOW) / (HIGH - LOW), at = (temperature, out) => contrast(get("similarity"), { ...settings, temperature }, out).loss;
    const places = Array.from({ length: 81 }, (_, i) => 10 ** (LOW + (HIGH - LOW) * i / 80)), lines = (same.length ? [[], same] : [[]]).map(out => places.map(t => at(t, out)));
    const most = Math.min(Math.max(0.1, ...lines.flat()), Math.max(8, 1.3 * found.loss)), y = v => B - (B - 8) * v / most, marks = [];
    const write = (x, y, text, anchor = "middle") => marks.push(make("text", { x, y, text, "text-anchor": anchor }));
    if (settings.loss === "clip") marks.push(make("rect", { class: "cap", x: L, y: 8, width: x(0.01) - L, height: B - 8, fill: "var(--fill)" })), write(L + 4, B - 6, "capped", "start");
    [0, most / 2, most].forEach(v => marks.push(make("line", { x1: L, x2: R, y1: y(v), y2: y(v), stroke: "var(--line)" })) && write(L - 5, y(v) + 4, Number(v.toPrecision(2)), "end"));
    [0.002, 0.01, 0.03, 0.1, 0.3, 1].forEach(t => write(x(t), H - 17, t)), write((L + R) / 2, H - 2, "temperature");
    lines.forEach((line, k) => marks.push(make("path", { d: line.map((v, i) => `${i ? "L" : "M"}${x(places[i]).toFixed(1)},${y(v).toFixed(1)}`).join(""), fill: "none", stroke: k ? COOL : WARM, "stroke-width": 2, "stroke-dasharray": k ? "5 4" : null })));
    marks.push(make("circle", { cx: x(settings.temperature), cy: y(found.loss), r: 6, fill: get("left_out") && same.length ? COOL : WARM }));
    set(chart, { viewBox: `0 0 ${W} ${H}`, height: H, "aria-label": "Loss against temperature: " + [0.01, 0.07, 0.3, 1].map(t => `${number(at(t, []), 3)} at ${t}`).join(", ") });
    chart.replaceChildren(...marks);
  }

  return frame(model, el, "Similarity explorer", NAMES,
    [make("style", { text: MORE }), div({ class: "row" }, make("span", { role: "group", "aria-label": "loss" }, losses[0], " ", losses[1]), heat.part, shift.part, press("reset", () => first)),
      div({ class: "row" }, mark, make("label", {}, box, boxText)),
      div({ class: "two" }, div({}, leftHead, div({ class: "row", style: "gap:4px;margin:2px 0 6px" }, ...views), grids[0]),
        div({}, div({ class: "head", text: "slope of the loss" }), div({ class: "soft", style: "height:36px", text: "\u2212 pulled together, + pushed apart" }), grids[1]),
        div({}, div({ class: "head", text: "loss at every temperature" }), chart), div({}, big, says, tells))], () => {
      const [cosines, captions, pictures, images, temperature, loss, bias, same, leave, view, i, j] = NAMES.map(get), n = cosines.length, clip = loss === "clip", all = [...cosines.keys()];
      if ([captions, pictures, images].some(l => l.length && l.length !== n) || Math.max(i, j, ...same.flat()) >= n) return make("p", { text: "…" });
      const wanted = JSON.stringify([captions, pictures, images]);
      if (wanted !== built) build(captions, pictures, images), built = wanted;
      const settings = { loss, temperature, bias }, found = contrast(cosines, settings, leave ? same : []), other = contrast(cosines, settings, leave ? [] : same);
      const kind = clip || view === "cosine" ? view : "row", twin = marked(same, i, j), many = 2 * same.length;
      losses.forEach((b, k) => set(b, { "aria-pressed": `${clip === !k}` }));
      views.forEach((b, k) => set(b, { text: ["cosine", clip ? "rows choose" : "sigmoid", "columns choose"][k], "aria-pressed": String(kind === ["cosine", "row", "column"][k]), hidden: k === 2 && !clip }));
      heat.show(Math.log10(temperature), `${temperature.toPrecision(2)}, scale ${number(found.scale, 1)}${found.scale < 0.999 / temperature ? ", the cap" : ""}`);
      shift.show(bias, number(bias, 1)), shift.part.hidden = clip;
      set(mark, { text: i === j ? "mark as the same: choose another cell" : `${twin ? "unmark" : "mark as the same"}: ${captions[i]}, ${captions[j]}`, disabled: i === j });
      box.checked = leave, box.disabled = !many, boxText.textContent = many ? `leave the ${many} marked cells out` : "leave marked cells out";
      leftHead.textContent = { cosine: "cosines", row: clip ? "softmax: every row sums to 1" : "sigmoid of cosine × scale + bias", column: "softmax: every column sums to 1" }[kind];
      const most = Math.max(1e-12, ...found.gradient.flat().map(Math.abs)), share = k => (found.rows[k] + found.columns[k]) / (2 * n * Math.max(found.loss, 1e-12)), percent = k => `${Math.round(100 * share(k))} %`;
      for (const a of all) for (const b of all) {
        const v = (kind === "cosine" ? cosines : kind === "row" ? found.p : found.q)[a][b], g = found.gradient[a][b], gone = leave && marked(same, a, b);
        paint(0, a, b, gone && kind !== "cosine" ? "\u2013" : short(v, kind === "cosine" ? 2 : 3), Math.abs(v), v);
        paint(1, a, b, gone ? "\u2013" : (g >= 0.005 ? "+" : "") + short(g), Math.abs(g) / most, g);
      }
      const worst = Math.max(1e-12, ...found.rows, ...found.columns);
      [found.columns, found.rows].forEach((list, k) => list.forEach((v, a) => { ends[k][a].style.setProperty("--w", (v / worst).toFixed(3)); set(ends[k][a], { text: number(v) }); }));
      set(ends[0][n], { text: number(found.loss) });
      curve(found, settings, same);
      const order = [...all].sort((a, b) => share(b) - share(a)), g = found.gradient[i][j];
      big.textContent = `loss ${number(found.loss, 3)}`;
      says.textContent = (clip ? `Guessing gives ${number(Math.log(n), 3)}. ` : "") + (many ? `With the marked cells ${leave ? "counted as wrong" : "left out"}: ${number(other.loss, 3)}. ` : "")
        + `Of the loss, ${order.slice(0, 2).map(k => `${percent(k)} is “${captions[k]}”`).join(", ")}.`;
      tells.textContent = `“${captions[i]}” and the picture of “${pictures[j]}”: cosine ${number(cosines[i][j], 3)}, logit ${number(found.scale * cosines[i][j] + (clip ? 0 : bias))}. `
        + (twin && leave ? `Left out: no pull. As wrong, its slope is ${number(other.gradient[i][j], 3)}.`
          : (clip ? `The caption gives this picture ${number(found.p[i][j], 3)}, the picture gives this caption ${number(found.q[i][j], 3)}. ` : `p = ${number(found.p[i][j], 3)}. `)
            + `Slope ${number(g, 3)}: ${Math.abs(g) < 0.0005 ? "almost no pull" : "they are " + (g < 0 ? "pulled together" : "pushed apart")}${twin ? ", though they are the same thing" : ""}.`);
      return table(`${clip ? "CLIP" : "SigLIP"}, ${big.textContent}`,
        ["caption", "cosine with its picture", "p of its picture", "row’s loss", "column’s loss", "share of the loss", "pushed hardest from"], captions.map((c, a) => {
          const slopes = found.gradient[a], far = all.filter(b => b !== a).reduce((x, b) => slopes[b] > slopes[x] ? b : x);
          return [c, number(cosines[a][a]), ...[found.p[a][a], found.rows[a], found.columns[a]].map(v => number(v, 3)), percent(a), `${pictures[far]} (${number(slopes[far], 3)})`];
        }));
    });
}

export default { render };
