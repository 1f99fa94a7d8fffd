// Brings the interactive figures of a page to life: each runs its module in a sandboxed frame that can load nothing.
// Without scripts, or if anything fails, the picture and the table stay where they are.
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const fetched = {};
  const source = name => fetched[name] ??= fetch(`${here}${name}.js`).then(answer => {
    if (!answer.ok) throw new Error(`${name}.js: ${answer.status}`);
    return answer.text();
  });
  const theme = () => document.documentElement.classList.contains("quarto-dark") ? "dark" : "light";

  // What runs inside the frame: a model in anywidget's form around the values, and word to the page about height and state.
  function inside(code, values) {
    const calls = {}, tell = message => parent.postMessage(message, "*");
    const model = {
      get: name => values[name],
      set(name, value) {
        if (JSON.stringify(values[name]) === JSON.stringify(value)) return;
        values[name] = value;
        [...calls["change:" + name] ?? []].forEach(call => call());
      },
      save_changes() { tell({ values }); },
      on(name, call) { (calls[name] ??= new Set()).add(call); },
      off(name, call) { calls[name]?.delete(call); },
    };
    addEventListener("message", event => {
      if (event.data.theme) document.documentElement.dataset.theme = event.data.theme;
      for (const name in event.data.values ?? {}) model.set(name, event.data.values[name]);
    });
    import(URL.createObjectURL(new Blob([code], { type: "text/javascript" }))).then(module => {
      const el = document.querySelector("main");
      module.default.render({ model, el });
      const size = () => tell({ height: document.body.offsetHeight });
      new ResizeObserver(size).observe(el);
      size(), tell({ ready: true });
    }).catch(error => tell({ failed: String(error) }));
  }

  const safe = value => JSON.stringify(value).replace(/</g, "\\u003c");
  const page = (title, code, values) => `<!doctype html><html lang="en" data-theme="${theme()}"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data:">
<title>${title.replace(/[<&]/g, "")}</title>
<style>html[data-theme=dark]{color-scheme:dark}body{margin:0;padding:4px}</style></head>
<body><main></main><script type="module">(${inside})(${safe(code)}, ${safe(values)})</script></body></html>`;

  async function start(figure) {
    const still = document.createElement("div"), frame = document.createElement("iframe");
    const code = await source(figure.dataset.figure);
    frame.sandbox = "allow-scripts";
    frame.title = figure.dataset.title;
    frame.style.cssText = `display:block;width:100%;border:0;height:0;color-scheme:${theme()}`;
    frame.srcdoc = page(figure.dataset.title, code, JSON.parse(figure.dataset.values));
    addEventListener("message", event => {
      if (event.source !== frame.contentWindow) return;
      const said = event.data;
      if (said.height) frame.style.height = `${said.height}px`;
      if (said.ready) { still.style.display = "none"; figure.dataset.state = "live"; }
      if (said.values) figure.dataset.values = JSON.stringify(said.values);
      if (said.failed) { frame.remove(); figure.dataset.state = said.failed; }
    });
    new MutationObserver(() => {
      frame.style.colorScheme = theme();
      frame.contentWindow?.postMessage({ theme: theme() }, "*");
    }).observe(document.documentElement, { attributeFilter: ["class"] });
    still.append(...figure.childNodes);
    figure.append(frame, still);
  }

  const near = new IntersectionObserver(seen => seen.filter(s => s.isIntersecting).forEach(s => {
    near.unobserve(s.target);
    start(s.target).catch(error => { s.target.dataset.state = String(error); });
  }), { rootMargin: "800px" });
  document.querySelectorAll(".mmtutor-figure").forEach(figure => near.observe(figure));
})();
