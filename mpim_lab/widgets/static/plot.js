// Plot: a plotly figure in JupyterLab's colours, as wide as the page. Plotly itself (4 MB) comes from the kernel, once a
// page and not once a figure.

const PATIENCE_MS = 20000;

function fetchPlotly(model) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  window.__mpimPlotly ||= new Promise((resolve, reject) => {
    const take = (message, buffers) => {
      if (message.type !== "plotly") return;
      const script = document.createElement("script");
      script.src = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      script.onload = () => { model.off("msg:custom", take); URL.revokeObjectURL(script.src); resolve(window.Plotly); };
      document.head.append(script);
    };
    model.on("msg:custom", take);
    model.send({ type: "plotly, please" });
    setTimeout(() => reject(new Error("the kernel did not answer")), PATIENCE_MS);
  }).catch((error) => { delete window.__mpimPlotly; throw error; });
  return window.__mpimPlotly;
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
    place.textContent = "…";
    el.append(place);
    let plotly = null;
    const draw = () => {
      if (!plotly) return;
      const { data, layout } = model.get("spec");
      plotly.react(place, data, coloured(layout), { responsive: true, displaylogo: false });
    };
    const sizes = new ResizeObserver(() => { if (plotly && place.clientWidth) plotly.Plots.resize(place); });
    const themes = new MutationObserver(draw);
    themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    fetchPlotly(model).then((found) => {
      plotly = found;
      place.textContent = "";
      draw();
      sizes.observe(el);
    }, (error) => { place.textContent = `The chart cannot be drawn (${error.message}); run the cell again.`; });
    model.on("change:spec", draw);
    return () => { model.off("change:spec", draw); sizes.disconnect(); themes.disconnect(); plotly?.purge(place); };
  },
};
