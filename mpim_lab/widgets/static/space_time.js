// SpaceTimePicture: time to the right, a line for everybody, messages as slanted strokes. Methods of flow.js's View.
const SpaceTimePicture = {
  drawSpace(context, width, height, nodes) {
    const lanes = new Map(nodes.map((node, index) => [node, 34 + laneHeight(nodes) * index + 12]));
    const room = width - LEFT - 16, all = room / Math.max(1, this.end - 1);
    const pixels = this.zoom ? all : Math.max(all, 26);
    const seen = room / pixels, first = Math.max(1, Math.min(this.at - seen * 0.7, this.end - seen));
    const toX = (step) => LEFT + (step - first) * pixels;
    const frame = { toX, first, last: first + seen, pixels, width, height };
    this.drawn = { lanes, frame };
    context.save();
    context.beginPath(); context.rect(LEFT - 13, 0, width - LEFT + 13, height); context.clip();
    let labelled = -Infinity;  // faults that follow one another share a label
    for (const band of this.scene.bands) {
      const y = lanes.get(band.node), x = toX(band.begin), wide = (Math.min(band.end, this.at) - band.begin) * pixels;
      if (y === undefined || wide <= 0 || x > width || x + wide < LEFT) continue;
      context.fillStyle = this.theme.soft; context.globalAlpha = 0.18;
      context.beginPath(); context.roundRect(x, y - 20, wide, 40, 5); context.fill();
      context.globalAlpha = 1; context.font = "italic 12px system-ui, sans-serif"; context.textAlign = "left";
      if (x - labelled > 60) { context.fillText(band.label, Math.max(x, LEFT) + 2, y + 29); labelled = x; }
    }
    context.strokeStyle = this.theme.line; context.lineWidth = 1.4;
    for (const y of lanes.values()) { context.beginPath(); context.moveTo(LEFT, y); context.lineTo(width - 8, y); context.stroke(); }
    this.drawLegs(context, lanes, frame);
    context.strokeStyle = this.theme.accent; context.lineWidth = 1.6; context.setLineDash([4, 3]);
    context.beginPath(); context.moveTo(toX(this.at), 6); context.lineTo(toX(this.at), height - 4); context.stroke();
    context.setLineDash([]);
    context.restore();
    context.font = "600 13px system-ui, sans-serif"; context.textAlign = "right"; context.textBaseline = "middle";
    context.fillStyle = this.theme.text;
    for (const [node, y] of lanes) context.fillText(node, LEFT - 14, y);
  },

  // What is over never changes: where the whole run fits, it is drawn once, into a layer of its own, and the layer copied.
  drawLegs(context, lanes, frame) {
    const alive = (leg) => leg.begin <= this.at && leg.settles > this.at;
    const inView = (leg) => leg.end >= frame.first && leg.begin <= Math.min(frame.last, this.at);
    if (frame.first === 1) {
      context.drawImage(this.settledLayer(context.canvas, lanes, frame), 0, 0, frame.width, frame.height);
      this.strokeLegs(context, this.legs.filter(alive), this.at, lanes, frame);
    } else this.strokeLegs(context, this.legs.filter(inView), this.at, lanes, frame);
    const story = this.stories.get(this.chosen);
    if (!story) return;
    context.strokeStyle = this.theme.text; context.lineWidth = 3.4; context.beginPath();
    for (const leg of this.legs) {
      if (leg.story !== story || !inView(leg)) continue;
      const { x1, y1, x, y } = this.line(leg, this.at, lanes, frame);
      context.moveTo(x1, y1); context.lineTo(x, y);
    }
    context.stroke();
  },

  settledLayer(canvas, lanes, frame) {
    const key = [canvas.width, canvas.height, frame.pixels, this.version, this.theme.soft].join();
    const layer = this.layer ||= { canvas: document.createElement("canvas") };
    if (layer.key !== key || this.at < layer.at) {
      prepare(layer.canvas, frame.width, frame.height);
      Object.assign(layer, { key, next: 0 });
    }
    const from = layer.next;
    while (layer.next < this.bySettling.length && this.bySettling[layer.next].settles <= this.at) layer.next += 1;
    layer.at = this.at;
    this.strokeLegs(layer.canvas.getContext("2d"), this.bySettling.slice(from, layer.next), Infinity, lanes, frame);
    return layer.canvas;
  },

  // Where a leg's line runs, as far as it has come at the time `at`.
  line(leg, at, lanes, frame) {
    const half = leg.outcome === "lost" && leg.end - leg.begin < 0.3 ? 0.5 : 1;
    const share = Math.min(1, (at - leg.begin) / (leg.end - leg.begin));
    const y1 = lanes.get(leg.source), y2 = lanes.get(leg.target), x1 = frame.toX(leg.begin);
    return { x1, y1, x: x1 + (frame.toX(leg.end) - x1) * share, y: y1 + (y2 - y1) * half * share };
  },

  strokeLegs(context, legs, at, lanes, frame) {
    const lines = new Map(), marks = new Map();
    const into = (map, key) => { if (!map.has(key)) map.set(key, new Path2D()); return map.get(key); };
    context.textAlign = "center"; context.font = "12px system-ui, sans-serif"; context.fillStyle = this.theme.soft;
    const every = Math.max(1, Math.ceil((12 + 7 * this.longest) / frame.pixels)), radius = Math.max(2, Math.min(4.6, frame.pixels / 3));
    for (const leg of legs) {
      if (!lanes.has(leg.source) || !lanes.has(leg.target)) continue;
      const { x1, y1, x, y } = this.line(leg, at, lanes, frame), over = at >= leg.end;
      const fate = leg.outcome === "arrived" ? (at >= leg.story.over ? leg.story.fate : "pending") : leg.outcome;
      const path = into(lines, fate);
      path.moveTo(x1, y1); path.lineTo(x, y);
      if (over && isEnd(leg)) mark(into(marks, leg.outcome), leg.outcome, x, y, radius + 0.5);
      else if (over && leg.ends) mark(into(marks, leg.story.fate), leg.story.fate, x, y, radius);
      if (leg.begin === leg.story.begin && (Math.floor(leg.begin) - 1) % every === 0) context.fillText(leg.story.id, x1, y1 - 16);
    }
    for (const [fate, path] of lines) {
      context.strokeStyle = COLOURS[fate]; context.lineWidth = Math.max(0.5, Math.min(fate === "confirmation" ? 1.1 : 1.7, frame.pixels * 0.6));
      context.setLineDash(fate === "confirmation" ? [3, 3] : []);
      context.stroke(path);
    }
    context.setLineDash([]);
    for (const [fate, path] of marks) paint(context, path, fate);
  },

  // Where a click finds which message: worked out when there is a click, not for each frame.
  spotsInSpace() {
    const { lanes, frame } = this.drawn || {};
    if (!frame) return [];
    return this.legs.filter((leg) => leg.begin <= this.at && lanes.has(leg.source) && lanes.has(leg.target)).flatMap((leg) => {
      const { x1, y1, x, y } = this.line(leg, this.at, lanes, frame), story = leg.story;
      return [{ x, y, story }, { x: (x1 + x) / 2, y: (y1 + y) / 2, story }, { x: x1, y: y1, story }];
    });
  },
};
