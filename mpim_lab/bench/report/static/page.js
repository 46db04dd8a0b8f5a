// Page: draw the figures in the page's own colours, and again when the reader's scheme changes.
const dark = matchMedia("(prefers-color-scheme: dark)");

function coloured(layout) {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const hoverlabel = { bgcolor: read("--ground"), font: { color: read("--text") }, bordercolor: read("--line") };
  return { ...layout, font: { ...layout.font, color: read("--text") }, hoverlabel };
}

function draw() {
  document.querySelectorAll(".figure").forEach((place, number) => {
    const { data, layout } = FIGURES[number];
    Plotly.react(place, data, coloured(layout), { responsive: true, displaylogo: false, displayModeBar: false });
  });
}

draw();
dark.addEventListener("change", draw);
