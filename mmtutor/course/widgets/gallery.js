// Gallery: items with a picture, a name and a sound; choose a group, look at an item, hear it.
// One ES module in anywidget's form, with no dependency. What it computes is exported and held to Python by tests.

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

// Samples within ±1 from base64 of mu-law bytes, which are 128 + 127 sign(x) ln(1 + 255 |x|) / ln 256.
export function unpack(packed) {
  return Array.from(atob(packed), c => {
    const y = (c.charCodeAt(0) - 128) / 127;
    return Math.sign(y) * (256 ** Math.abs(y) - 1) / 255;
  });
}
// The numbers of the items in a group; the empty name stands for all.
export const within = (items, group) => items.flatMap((item, i) => !group || item.group === group ? [i] : []);
// Where an arrow key leads from place `at` among n items in rows of `columns`; null for another key.
export function goes(key, at, n, columns) {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -n, End: n }[key];
  if (step === undefined) return null;
  const to = at + step, jump = key === "Home" || key === "End";
  return jump ? Math.max(0, Math.min(n - 1, to)) : to >= 0 && to < n ? to : at;
}
// The lowest and highest sample of each of n equal parts.
export function outline(samples, n) {
  return Array.from({ length: n }, (_, i) => {
    const from = Math.floor(i * samples.length / n), part = samples.slice(from, Math.max(from + 1, Math.floor((i + 1) * samples.length / n)));
    return [Math.min(...part), Math.max(...part)];
  });
}

const MORE = `
.mmt .items{display:grid;grid-template-columns:repeat(auto-fill,minmax(92px,1fr));gap:6px}
.mmt .items button{display:flex;flex-direction:column;align-items:center;gap:4px;padding:6px 4px;min-width:0;border-width:2px}
.mmt .items button[aria-pressed=true]{border-color:var(--cool);outline:1px solid var(--cool)}
.mmt .items button:focus-visible{outline:3px solid var(--warm)}
.mmt .items img,.mmt .items i{width:56px;height:56px;border-radius:6px;background:#fff;object-fit:contain}
.mmt .items i{background:none;border:1px dashed var(--soft)}
.mmt .items span{font-size:12px;line-height:1.25;overflow-wrap:anywhere}
.mmt .one{display:flex;flex-wrap:wrap;gap:14px;margin-top:12px;padding-top:12px;border-top:1px solid var(--line)}
.mmt .one>img{width:144px;height:144px;background:#fff;border-radius:8px;object-fit:contain}.mmt .one>div{flex:1 1 220px;min-width:0}
.mmt .one .name{font-size:17px;font-weight:600;margin:0 0 2px;overflow-wrap:anywhere}.mmt .one p{margin:0 0 6px}`;

function render({ model, el }) {
  const get = n => model.get(n), items = () => get("items"), shown = () => within(items(), get("group"));
  const now = () => { const here = shown(); return here.includes(get("selected")) ? get("selected") : here[0]; };
  const choose = make("select", { onchange: () => {
    const group = choose.value, here = within(items(), group);
    put(model, { group, selected: here.includes(get("selected")) ? get("selected") : here[0] });
  } });
  const list = make("div", { class: "items", role: "group", "aria-label": "the items" });
  const large = make("img", {}), name = make("p", { class: "name" }), about = make("p", { class: "soft" });
  const wave = make("svg", { role: "img", height: 56 }), play = make("button", { type: "button", onclick: () => source ? stop() : start() });
  const told = make("div", { "aria-live": "polite" }, name, about);
  let made = null, buttons = [], drawn = null, samples = [], context, source = null;

  // Nothing is loaded: the buffer is made here, from what the page holds.
  const ended = () => { source = null; set(play, { text: "play" }); };
  const stop = () => { const s = source; ended(); if (s) s.onended = null, s.stop(); };
  function start() {
    context ??= new AudioContext(), context.resume();
    const buffer = context.createBuffer(1, samples.length, items()[now()].rate);
    buffer.copyToChannel(Float32Array.from(samples), 0);
    source = Object.assign(context.createBufferSource(), { buffer, onended: ended });
    source.connect(context.destination), source.start();
    set(play, { text: "stop" });
  }
  const key = event => {
    const here = shown(), second = buttons.findIndex(b => b.offsetTop > buttons[0].offsetTop), wide = second < 0 ? here.length : second;
    const to = goes(event.key, here.indexOf(now()), here.length, wide);
    if (to === null) return;
    event.preventDefault(), put(model, { selected: here[to] }), buttons[to].focus();
  };
  set(list, { onkeydown: key });

  function fill() { // the list, anew when the items or the group change
    const groups = [...new Set(items().map(i => i.group))].filter(Boolean);
    choose.replaceChildren(make("option", { value: "", text: `all (${items().length})` }),
      ...groups.map(g => make("option", { value: g, text: `${g} (${within(items(), g).length})` })));
    choose.value = get("group");
    buttons = shown().map(i => {
      const item = items()[i];
      return make("button", { type: "button", onclick: () => put(model, { selected: i }) },
        item.picture ? make("img", { src: item.picture, alt: "" }) : make("i"), make("span", { text: item.name || "(no name)" }));
    });
    list.replaceChildren(...buttons);
  }
  function one() { // the chosen item
    const item = items()[now()], seconds = `${number(item.seconds)} s of sound`;
    if (drawn !== item) stop(), drawn = item, samples = item.sound ? unpack(item.sound) : [];
    set(large, { src: item.picture || false, alt: item.picture ? `the picture of ${item.name || "an item without a name"}` : false, hidden: !item.picture });
    set(name, { text: item.name || "(no name)" });
    set(about, { text: [item.group, item.picture ? "" : "no picture", item.sound ? seconds : "no sound"].filter(Boolean).join(", ") });
    set(play, { disabled: !item.sound, "aria-label": `${source ? "stop" : "play"} ${item.name}` });
    const W = Math.max(60, wave.clientWidth || 300), H = 56, high = Math.max(1e-4, ...samples.map(Math.abs));
    const path = samples.length ? outline(samples, Math.floor(W)).map(([low, top], x) => `M${x + 0.5},${(H / 2 - top / high * (H / 2 - 2) - 0.4).toFixed(1)}V${(H / 2 - low / high * (H / 2 - 2) + 0.4).toFixed(1)}`).join("") : "";
    set(wave, { viewBox: `0 0 ${W} ${H}`, "aria-label": item.sound ? `Waveform of ${seconds}` : "No waveform: there is no sound" });
    wave.replaceChildren(make("path", { d: path || `M0,${H / 2}H${W}`, stroke: path ? "var(--cool)" : "var(--line)", fill: "none" }));
  }
  const end = frame(model, el, "Gallery", ["items", "group", "selected"],
    [make("style", { text: MORE }), make("div", { class: "row" }, make("label", {}, make("span", { text: "group" }), choose)), list,
      make("div", { class: "one" }, large, make("div", {}, told, wave, make("div", { class: "row", style: "margin:6px 0 0" }, play)))], () => {
      if (made?.[0] !== items() || made[1] !== get("group")) made = [items(), get("group")], fill();
      shown().forEach((i, at) => set(buttons[at], { "aria-pressed": i === now() ? "true" : "false", tabindex: i === now() ? "0" : "-1" }));
      one();
      return table(get("group") ? `The items of ${get("group")}` : "All items", ["name", "group", "picture", "sound (s)"], shown().map(i => {
        const item = items()[i];
        return [item.name || "(no name)", item.group || "–", item.pixels || "none", item.sound ? number(item.seconds) : "none"];
      }));
    });
  return () => { stop(); context?.close(); end(); };
}

export default { render };
