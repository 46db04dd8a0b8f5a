// Plot: a plotly figure in JupyterLab's colours, as wide as the page. Plotly itself (4 MB) comes from the kernel, once a
// page and not once a figure.

const FIRST_PAUSE_MS = 3000;

// What was loaded, or will be: one promise a page, kept for whichever plot's kernel answers first.
function loading() {
  if (!window.__mpimPlotly) {
    const shared = (window.__mpimPlotly = {});
    shared.promise = new Promise((resolve) => { shared.resolve = resolve; });
    if (window.Plotly) shared.resolve(window.Plotly);
  }
  return window.__mpimPlotly;
}

function load(buffer) {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob([buffer], { type: "text/javascript" }));
  script.onload = () => { URL.revokeObjectURL(script.src); loading().resolve(window.Plotly); };
  document.head.append(script);
}

// Ask this plot's kernel, and again after 3, 6, 12 ... seconds: a kernel is busy for as long as it likes, an answer may
// be dropped on the way, and the plot that another one waits for may be gone. Returns a function that stops it.
function askForPlotly(model) {
  let timer = null;
  const receive = (message, buffers) => { if (message.type === "plotly") load(buffers[0]); };
  const stop = () => { clearTimeout(timer); model.off("msg:custom", receive); };
  const ask = (pause) => {
    if (window.Plotly) return;
    const now = Date.now(), shared = loading();
    if (!(shared.asked > now - FIRST_PAUSE_MS)) {  // another plot of this page has just asked
      shared.asked = now;
      model.send({ type: "plotly, please" });
    }
    timer = setTimeout(() => ask(2 * pause), pause);
  };
  model.on("msg:custom", receive);
  ask(FIRST_PAUSE_MS);
  loading().promise.then(stop);
  return stop;
}

function coloured(layout) {
  const style = getComputedStyle(document.body);
  const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const text = read("--jp-content-font-color1", "#1f2328"), soft = read("--jp-content-font-color2", "#57606a");
  const hover = { bgcolor: read("--jp-layout-color1", "#fff"), font: { color: text }, bordercolor: soft };
  return { ...layout, font: { ...layout.font, color: text }, hoverlabel: hover };
}

export default {
  render({ model, el }) {
    el.classList.add("mpim-chart");
    const place = document.createElement("div");
    place.style.cssText = `width:100%;min-height:${model.get("spec").layout?.height || 320}px`;
    place.textContent = "waiting for the kernel …";
    el.append(place);
    let plotly = null, gone = false;
    const draw = () => {
      if (!plotly) return;
      const { data, layout } = model.get("spec");
      plotly.react(place, data, coloured(layout), { responsive: true, displaylogo: false });
    };
    const sizes = new ResizeObserver(() => { if (plotly && place.clientWidth) plotly.Plots.resize(place); });
    const themes = new MutationObserver(draw);
    themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    const stopAsking = askForPlotly(model);
    loading().promise.then((found) => {
      if (gone) return;
      plotly = found;
      place.textContent = "";
      draw();
      sizes.observe(el);
    });
    model.on("change:spec", draw);
    return () => { gone = true; stopAsking(); model.off("change:spec", draw); sizes.disconnect(); themes.disconnect(); plotly?.purge(place); };
  },
};
