// Runs inside the frame of an interactive figure: a model in anywidget's form around the values that the page sends.
// Nothing here reaches the page but messages, and nothing reaches the network at all.
(() => {
  const calls = {}, tell = message => parent.postMessage(message, "*");
  let values = {};
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
  function start(code) {
    import(URL.createObjectURL(new Blob([code], { type: "text/javascript" }))).then(module => {
      const el = document.querySelector("main");
      module.default.render({ model, el });
      const size = () => tell({ height: document.body.offsetHeight });
      new ResizeObserver(size).observe(el);
      size(), tell({ ready: true });
    }).catch(error => tell({ failed: String(error) }));
  }
  addEventListener("message", ({ data, source }) => {
    if (source !== parent) return;
    if (data.theme) document.documentElement.dataset.theme = data.theme;
    if (data.title) document.title = data.title;
    if (data.code) values = data.values, start(data.code);
    else for (const name in data.values ?? {}) model.set(name, data.values[name]);
  });
  tell({ waiting: true });
})();
