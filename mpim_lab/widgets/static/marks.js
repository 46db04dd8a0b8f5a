// Marks: the colour, shape and word of each fate, and small pieces of a page. Read before flow.js, into one module.

const COLOURS = {
  delivered: "#009E73", duplicated: "#CC79A7", lost: "#D55E00", pending: "#56B4E9", "dead-lettered": "#8C8C8C", confirmation: "#0072B2",
};
const WORDS = {
  delivered: "delivered", duplicated: "duplicated", lost: "lost", pending: "unfinished", "dead-lettered": "dead letter",
};

function element(tag, className, attributes = {}, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// The path of a fate's mark around (x, y): disc, diamond, cross, ring, square. Crosses and rings are stroked.
function mark(path, fate, x, y, r) {
  if (fate === "lost") {
    path.moveTo(x - r, y - r); path.lineTo(x + r, y + r); path.moveTo(x + r, y - r); path.lineTo(x - r, y + r);
  } else if (fate === "duplicated") {
    path.moveTo(x, y - r * 1.35); path.lineTo(x + r * 1.35, y); path.lineTo(x, y + r * 1.35); path.lineTo(x - r * 1.35, y);
    path.closePath();
  } else if (fate === "dead-lettered") {
    path.rect(x - r, y - r, 2 * r, 2 * r);
  } else {
    path.moveTo(x + r, y); path.arc(x, y, r, 0, 2 * Math.PI);
  }
}

// Drawn, not taken from a font: not every font has the signs of a tape recorder.
const ICONS = {
  begin: "M3 2v12h2V2zM13 2 6 8l7 6z", back: "M12 2 4 8l8 6z", play: "M4 2v12l9-6z", pause: "M4 2h3v12H4zM9 2h3v12H9z",
  forward: "M3 2v12l7-6zM11 2v12h2V2z", end: "M11 2v12h2V2zM3 2v12l7-6z", slower: "M3 7h10v2H3z", faster: "M3 7h4V3h2v4h4v2H9v4H7V9H3z",
  fit: "M2 2h5v2H4v3H2zM9 2h5v5h-2V4H9zM2 9h2v3h3v2H2zM12 9h2v5H9v-2h3z",
};
function setIcon(button, name) {
  button.innerHTML = `<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
}

// A leg on which a message ended: lost, or given up.
const isEnd = (leg) => leg.outcome === "lost" || leg.outcome === "dead-lettered";
const isStroked = (fate) => fate === "lost" || fate === "pending";

function paint(context, path, fate, width = 2.4) {
  if (isStroked(fate)) {
    context.strokeStyle = COLOURS[fate]; context.lineWidth = width; context.stroke(path);
  } else {
    context.fillStyle = COLOURS[fate]; context.fill(path);
  }
}

// Size a canvas for the screen's pixels and give its context, cleared.
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.textBaseline = "middle";
  return context;
}

function symbol(fate) {
  const canvas = element("canvas", "mpim-symbol", { "aria-hidden": "true" });
  const context = prepare(canvas, 14, 14), path = new Path2D();
  mark(path, fate, 7, 7, 4.4);
  paint(context, path, fate);
  return canvas;
}
