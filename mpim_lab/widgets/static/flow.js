// FlowView: messages on their way, and the space-time diagram of the same run. What happened is decided in Python
// (story.py); here it is only drawn. Time is counted in steps, one for each attempt to send.

const COLOURS = {
  delivered: "#009E73", duplicated: "#CC79A7", lost: "#D55E00", pending: "#56B4E9", dead: "#8C8C8C", confirmation: "#0072B2",
};
const WORDS = {
  delivered: "delivered", duplicated: "duplicated", lost: "lost", pending: "on its way", dead: "dead letter",
};
const SPEEDS = [0.5, 1, 2, 4, 8, 16, 64, 256];
const FALL = 1.2;  // steps for which a lost message is seen falling
const FLOW_HEIGHT = 190, LANE = 62, LEFT = 118, TRAVEL = 0.35;

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
  } else if (fate === "dead") {
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

const isStroked = (fate) => fate === "lost" || fate === "pending";

function paint(context, path, fate, width = 2.4) {
  if (isStroked(fate)) {
    context.strokeStyle = COLOURS[fate]; context.lineWidth = width; context.stroke(path);
  } else {
    context.fillStyle = COLOURS[fate]; context.fill(path);
  }
}

class View {
  constructor(model, host) {
    this.model = model;
    this.scene = { producers: [], channels: [], consumers: [], bands: [], steps: 0, note: "", live: false };
    this.stories = new Map();
    this.legs = []; this.bySettling = [];
    this.at = 1; this.playing = false; this.speed = 4; this.chosen = null; this.zoom = 0; this.frame = 0; this.times = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.build(host);
    this.onMessage = (message) => this.take(message);
    model.on("msg:custom", this.onMessage);
    this.sizes = new ResizeObserver(() => { this.readTheme(); this.draw(); });  // also the first time it is on the page
    this.sizes.observe(this.root);
    this.sight = new IntersectionObserver((seen) => { if (seen[0].isIntersecting) { this.readTheme(); this.draw(); } });
    this.sight.observe(this.root);
    this.themes = new MutationObserver(() => { this.readTheme(); this.draw(); });
    for (const node of [document.body, document.documentElement])
      this.themes.observe(node, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
    this.readTheme();
    model.send({ type: "ready" });
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.frame = 0; this.playing = false;
    this.sizes.disconnect(); this.sight.disconnect(); this.themes.disconnect();
    this.model.off("msg:custom", this.onMessage);
  }

  // The page

  build(host) {
    const root = this.root = element("div", "mpim-flow", { tabindex: "0", role: "group", "aria-label": this.model.get("title") || "message flow" });
    const head = element("div", "mpim-head");
    head.append(element("span", "mpim-title", {}, this.model.get("title")));
    this.badge = head.appendChild(element("span", "mpim-badge"));
    this.legend = head.appendChild(element("span", "mpim-legend"));
    this.flow = element("canvas", "mpim-canvas", { role: "img" });
    this.space = element("canvas", "mpim-canvas mpim-space", { role: "img" });
    const bar = element("div", "mpim-bar");
    const button = (icon, title, act) => {
      const made = bar.appendChild(element("button", "mpim-button", { type: "button", title, "aria-label": title }));
      setIcon(made, icon);
      made.addEventListener("click", act);
      return made;
    };
    button("begin", "to the beginning (Home)", () => this.seek(1));
    button("back", "one step back (←)", () => this.seek(Math.ceil(this.at) - 1));
    this.player = button("play", "play or pause (space)", () => this.toggle());
    button("forward", "one step forward (→)", () => this.seek(Math.floor(this.at) + 1));
    button("end", "to the end (End)", () => this.seek(this.end));
    const scrub = bar.appendChild(element("div", "mpim-scrub"));
    this.ticks = scrub.appendChild(element("canvas", "mpim-ticks"));
    this.slider = scrub.appendChild(element("input", "mpim-slider", { type: "range", min: 1, max: 2, step: 0.01, "aria-label": "time, in steps" }));
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    button("slower", "slower (-)", () => this.hurry(-1));
    this.rate = bar.appendChild(element("span", "mpim-rate"));
    button("faster", "faster (+)", () => this.hurry(1));
    button("fit", "fit everything, or back to readable (f)", () => { this.zoom = this.zoom ? 0 : 1; this.draw(); });
    this.words = element("div", "mpim-story", { "aria-live": "polite" });
    this.words.textContent = "Click a message, or choose one with ↑ and ↓, to read its story.";
    root.append(head, this.flow, this.space, bar, this.words);
    root.addEventListener("keydown", (event) => this.key(event));
    this.flow.addEventListener("click", (event) => this.pick(event, this.flowSpots));
    this.space.addEventListener("click", (event) => this.pick(event, this.spotsInSpace()));
    host.append(root);
    this.hurry(0);
  }

  key(event) {
    if (event.target !== this.root && event.key === " ") return;  // a focused button answers the space bar itself
    if (event.target === this.slider && event.key.startsWith("Arrow")) return;
    const keys = {
      " ": () => this.toggle(), ArrowRight: () => this.seek(Math.floor(this.at) + 1), ArrowLeft: () => this.seek(Math.ceil(this.at) - 1),
      Home: () => this.seek(1), End: () => this.seek(this.end), "+": () => this.hurry(1), "-": () => this.hurry(-1),
      ArrowDown: () => this.chooseNext(1), ArrowUp: () => this.chooseNext(-1), f: () => { this.zoom = this.zoom ? 0 : 1; this.draw(); },
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    keys[event.key]();
    event.preventDefault(); event.stopPropagation();  // the notebook has shortcuts of its own
  }

  readTheme() {
    const style = getComputedStyle(this.root);
    const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
    this.theme = {
      text: read("--mpim-text", "#1f2328"), soft: read("--mpim-soft", "#57606a"), line: read("--mpim-line", "#8c959f"),
      card: read("--mpim-card", "#f6f8fa"), accent: read("--mpim-accent", "#0072B2"),
    };
  }

  // What comes from Python

  take(message) {
    if (message.type !== "scene") return;
    const { stories, fresh, ...scene } = message;
    const wasAtEnd = this.at >= this.end - 0.01;
    if (fresh) { this.stories.clear(); this.chosen = null; this.at = 1; }
    this.scene = scene;
    for (const story of stories) this.stories.set(story.id, story);
    this.index();
    if (fresh && !scene.live) this.at = this.end;
    if (scene.live && (fresh || wasAtEnd || !this.playing)) { this.speed = Math.max(this.speed, 4); this.play(); }
    this.describe();
    this.draw();
  }

  index() {
    this.legs = [];
    for (const story of this.stories.values()) {
      story.begin = story.legs.length ? story.legs[0].begin : 1;
      story.over = Infinity;
      for (const leg of story.legs) {
        const ends = leg.outcome === "arrived" && !this.scene.channels.includes(leg.target);
        if (ends) story.over = Math.min(story.over, leg.end);
        this.legs.push({ ...leg, story, ends });
      }
      if (story.fate === "lost") story.over = Math.max(story.begin, ...story.legs.map((leg) => leg.end));
    }
    this.order = [...this.stories.values()].sort((a, b) => a.begin - b.begin);
    for (const leg of this.legs) leg.settles = Math.max(leg.end, leg.outcome === "arrived" ? leg.story.over : 0);
    this.bySettling = [...this.legs].sort((a, b) => a.settles - b.settles);
    this.version = (this.version || 0) + 1;
    this.longest = Math.max(2, ...this.order.slice(-50).map((story) => story.id.length));
    this.slider.max = this.end;
    this.flow.setAttribute("aria-label", `message flow: ${this.scene.summary || ""}`);
    this.space.setAttribute("aria-label", `space-time diagram: ${this.scene.summary || ""}`);
  }

  get end() { return Math.max(2, this.scene.steps + 1.4, ...this.scene.bands.map((band) => band.end)); }

  // Playing

  toggle() { if (this.playing) this.pause(); else { if (this.at >= this.end) this.at = 1; this.play(); } }
  play() { this.playing = true; setIcon(this.player, "pause"); this.last = performance.now(); this.schedule(); }
  pause() { this.playing = false; setIcon(this.player, "play"); this.draw(); }
  seek(at) { this.pause(); this.at = Math.min(Math.max(at, 1), this.end); this.draw(); }
  hurry(by) {
    const index = Math.max(0, Math.min(SPEEDS.length - 1, SPEEDS.indexOf(this.speed) + by));
    this.speed = SPEEDS[index];
    this.rate.textContent = `${this.speed} step${this.speed === 1 ? "" : "s"}/s`;
  }
  schedule() { if (!this.frame && this.root.isConnected) this.frame = requestAnimationFrame((now) => this.tick(now)); }
  tick(now) {
    this.frame = 0;
    if (!this.playing) return;
    const seconds = Math.min(0.1, (now - this.last) / 1000);
    this.last = now;
    // Live, the picture must not fall behind the run: the further behind, the faster.
    const speed = this.scene.live ? Math.max(this.speed, (this.end - this.at) * 2) : this.speed;
    this.at = this.still.matches ? Math.min(this.end, Math.floor(this.at) + 1) : Math.min(this.end, this.at + seconds * speed);
    this.draw();
    if (this.at >= this.end && !this.scene.live) this.pause();
    else if (this.still.matches) setTimeout(() => this.schedule(), 1000 / speed);
    else if (this.root.offsetParent !== null) this.schedule();
    else setTimeout(() => this.schedule(), 300);  // scrolled into a hidden tab: look again now and then
  }

  // Choosing

  pick(event, spots) {
    const box = event.target.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, nearest = 18 * 18;
    for (const spot of spots || []) {
      const distance = (spot.x - x) ** 2 + (spot.y - y) ** 2;
      if (distance < nearest) { nearest = distance; best = spot.story; }
    }
    if (best) this.choose(best.id);
    this.root.focus({ preventScroll: true });
  }
  chooseNext(by) {
    if (!this.order?.length) return;
    const now = this.order.findIndex((story) => story.id === this.chosen);
    const next = this.order[Math.max(0, Math.min(this.order.length - 1, now < 0 ? (by > 0 ? 0 : this.order.length - 1) : now + by))];
    this.choose(next.id);
    if (next.begin > this.at) { this.pause(); this.at = Math.min(this.end, next.begin + 1); }
    this.draw();
  }
  choose(id) { this.chosen = id; this.describe(); this.draw(); }
  describe() {
    const story = this.chosen && this.stories.get(this.chosen);
    if (!story) return;
    this.words.replaceChildren();
    const title = this.words.appendChild(element("div", "mpim-story-title"));
    title.append(symbol(story.fate), element("b", "", {}, story.id), ` ${WORDS[story.fate]}` + (story.misreported ? ", although its sender was told “delivered”" : ""));
    const list = this.words.appendChild(element("ol", ""));
    for (const line of story.log) list.append(element("li", "", {}, line));
  }

  // Drawing

  draw() {
    if (this.root.clientWidth < 60) return;  // not on the page, or out of sight
    const begun = performance.now();
    const width = Math.max(320, this.root.clientWidth - 24);
    this.drawFlow(prepare(this.flow, width, FLOW_HEIGHT), width);
    const nodes = [...this.scene.producers, ...this.scene.channels, ...this.scene.consumers];
    const height = 34 + LANE * Math.max(nodes.length, 1);
    this.drawSpace(prepare(this.space, width, height), width, height, nodes);
    this.drawTicks();
    this.slider.value = this.at;
    this.count();
    this.times.push(performance.now() - begun);
    if (this.times.length > 240) this.times.shift();
    const sorted = [...this.times].sort((a, b) => a - b);
    window.__mpimFrameStats = { draws: (window.__mpimFrameStats?.draws || 0) + 1, medianMs: sorted[sorted.length >> 1], p95Ms: sorted[Math.floor(sorted.length * 0.95)], messages: this.stories.size };
  }

  count() {
    const counts = { delivered: 0, duplicated: 0, lost: 0, pending: 0, dead: 0 };
    let lies = 0;
    for (const story of this.order || []) {
      if (story.begin > this.at) continue;
      if (story.misreported && story.over <= this.at) lies += 1;
      counts[story.over <= this.at ? story.fate : "pending"] += 1;
    }
    const text = JSON.stringify([counts, lies]);
    if (text !== this.counted) {
      this.counted = text;
      this.legend.replaceChildren();
      for (const fate of Object.keys(counts)) {
        if (fate === "dead" && !counts.dead) continue;
        const item = this.legend.appendChild(element("span", "mpim-count", { "data-fate": fate }));
        item.append(symbol(fate), `${counts[fate]} ${WORDS[fate]}`);
      }
      if (lies) this.legend.append(element("span", "mpim-count mpim-lies", { "data-fate": "misreported" }, `${lies} of them told “delivered”`));
    }
    this.badge.textContent = this.scene.live ? "live" : this.scene.note;
    this.badge.classList.toggle("mpim-live", this.scene.live);
  }

  places(width) {
    const places = new Map();
    const column = (names, x) => names.forEach((name, index) =>
      places.set(name, { x, y: (FLOW_HEIGHT - 34) * (index + 1) / (names.length + 1) }));
    const edge = Math.min(110, width * 0.16);
    column(this.scene.producers, edge); column(this.scene.channels, width / 2); column(this.scene.consumers, width - edge);
    return places;
  }

  isAway(node) { return this.scene.bands.find((band) => band.node === node && band.begin <= this.at && this.at < band.end); }

  drawFlow(context, width) {
    const places = this.places(width), moving = new Map(), halo = new Path2D(), fallen = new Path2D();
    this.flowSpots = [];
    context.lineWidth = 2; context.strokeStyle = this.theme.line; context.globalAlpha = 0.35;
    for (const [from, to] of [[this.scene.producers, this.scene.channels], [this.scene.channels, this.scene.consumers]])
      for (const a of from) for (const b of to) {
        context.beginPath(); context.moveTo(places.get(a).x, places.get(a).y); context.lineTo(places.get(b).x, places.get(b).y); context.stroke();
      }
    context.globalAlpha = 1;
    for (const leg of this.legs) {
      const from = places.get(leg.source), to = places.get(leg.target), t = this.at;
      if (!from || !to || t < leg.begin || t > leg.end + FALL) continue;
      // A message that waits at the server waits there, and then travels as fast as any other.
      const start = leg.outcome === "arrived" ? Math.max(leg.begin, leg.end - TRAVEL) : leg.begin;
      const share = Math.min(1, Math.max(0, (t - start) / Math.max(leg.end - start, 0.01)));
      const whole = leg.outcome === "lost" && leg.end - leg.begin < 0.3 ? 0.5 : 1;
      let x = from.x + (to.x - from.x) * share * whole, y = from.y + (to.y - from.y) * share * whole;
      const late = t - leg.end;
      if (leg.outcome === "lost" && late >= 0) {
        y += (FLOW_HEIGHT - 30 - y) * Math.min(1, (late / FALL) ** 2);
        mark(fallen, "lost", x, y, 6);
      } else if (late > 0 || leg.outcome === "confirmation") {
        if (late > 0) continue;
        y += 22;
        if (!moving.has("confirmation")) moving.set("confirmation", new Path2D());
        mark(moving.get("confirmation"), "delivered", x, y, 3);
      } else {
        const spread = share === 0 && start > leg.begin ? ((leg.begin * 7) % 9 - 4) * 5 : ((leg.begin * 5) % 7 - 3) * 2.2;
        y += spread;
        const fate = leg.outcome === "lost" ? "lost" : leg.story.fate === "lost" ? "pending" : leg.story.fate;
        const shown = fate === "lost" ? "pending" : fate;
        if (!moving.has(shown)) moving.set(shown, new Path2D());
        mark(moving.get(shown), shown, x, y, 6);
      }
      if (leg.story.id === this.chosen) mark(halo, "pending", x, y, 12);
      this.flowSpots.push({ x, y, story: leg.story });
    }
    this.drawSums(context, places);
    this.drawNodes(context, places);
    for (const [fate, path] of moving) paint(context, path, fate);
    paint(context, fallen, "lost", 3);
    context.strokeStyle = this.theme.text; context.lineWidth = 1.6; context.stroke(halo);
  }

  // What is behind us: how many were handled, and those that were lost, lying on the floor.
  drawSums(context, places) {
    const lost = (this.order || []).filter((story) => story.fate === "lost" && story.over + FALL < this.at);
    const handled = (this.order || []).filter((story) => story.over <= this.at && story.fate !== "lost").length;
    context.textAlign = "center"; context.font = "13px system-ui, sans-serif"; context.fillStyle = this.theme.soft;
    const bob = places.get(this.scene.consumers[0]), server = places.get(this.scene.channels[0]);
    if (bob && handled) context.fillText(`${handled.toLocaleString("en")} handled`, bob.x, bob.y + 36);
    if (!places.size) context.fillText("Nothing has been sent yet.", context.canvas.clientWidth / 2, FLOW_HEIGHT / 2);
    if (!server || !lost.length) return;
    const shown = lost.slice(0, 24), pile = new Path2D();
    shown.forEach((story, index) => {
      const x = server.x + 20 + 16 * index, y = FLOW_HEIGHT - 18;
      mark(pile, "lost", x, y, 5);
      this.flowSpots.push({ x, y, story });
    });
    context.textAlign = "right";
    context.fillText(`${lost.length.toLocaleString("en")} lost`, server.x + 4, FLOW_HEIGHT - 18);
    paint(context, pile, "lost", 2.4);
  }

  drawNodes(context, places) {
    context.textAlign = "center"; context.textBaseline = "middle";
    for (const [name, { x, y }] of places) {
      const away = this.isAway(name), isChannel = this.scene.channels.includes(name);
      context.font = "600 13px system-ui, sans-serif";
      const wide = Math.max(74, context.measureText(name).width + 30), high = 38;
      context.globalAlpha = away ? 0.5 : 1;
      context.fillStyle = this.theme.card; context.strokeStyle = away ? this.theme.soft : this.theme.accent; context.lineWidth = 2;
      context.setLineDash(away ? [5, 4] : []);
      context.beginPath(); context.roundRect(x - wide / 2, y - high / 2, wide, high, isChannel ? 19 : 8); context.fill(); context.stroke();
      context.setLineDash([]);
      context.fillStyle = this.theme.text; context.fillText(name, x, y);
      context.globalAlpha = 1;
      if (away) { context.font = "italic 13px system-ui, sans-serif"; context.fillStyle = COLOURS.lost; context.fillText(away.label, x, y - high / 2 - 12); }
    }
  }

  drawSpace(context, width, height, nodes) {
    const lanes = new Map(nodes.map((node, index) => [node, 34 + LANE * index + 12]));
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
  }

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
  }

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
  }

  // Where a leg's line runs, as far as it has come at the time `at`.
  line(leg, at, lanes, frame) {
    const half = leg.outcome === "lost" && leg.end - leg.begin < 0.3 ? 0.5 : 1;
    const share = Math.min(1, (at - leg.begin) / (leg.end - leg.begin));
    const y1 = lanes.get(leg.source), y2 = lanes.get(leg.target), x1 = frame.toX(leg.begin);
    return { x1, y1, x: x1 + (frame.toX(leg.end) - x1) * share, y: y1 + (y2 - y1) * half * share };
  }

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
      if (over && leg.outcome === "lost") mark(into(marks, "lost"), "lost", x, y, radius + 0.5);
      else if (over && leg.ends) mark(into(marks, leg.story.fate), leg.story.fate, x, y, radius);
      if (leg.begin === leg.story.begin && Math.floor(leg.begin) % every === 0) context.fillText(leg.story.id, x1, y1 - 16);
    }
    for (const [fate, path] of lines) {
      context.strokeStyle = COLOURS[fate]; context.lineWidth = Math.max(0.5, Math.min(fate === "confirmation" ? 1.1 : 1.7, frame.pixels * 0.6));
      context.setLineDash(fate === "confirmation" ? [3, 3] : []);
      context.stroke(path);
    }
    context.setLineDash([]);
    for (const [fate, path] of marks) paint(context, path, fate);
  }

  // Where a click finds which message: worked out when there is a click, not for each frame.
  spotsInSpace() {
    const { lanes, frame } = this.drawn || {};
    if (!frame) return [];
    return this.legs.filter((leg) => leg.begin <= this.at && lanes.has(leg.source) && lanes.has(leg.target)).flatMap((leg) => {
      const { x1, y1, x, y } = this.line(leg, this.at, lanes, frame), story = leg.story;
      return [{ x, y, story }, { x: (x1 + x) / 2, y: (y1 + y) / 2, story }, { x: x1, y: y1, story }];
    });
  }

  // All fates at a glance, above the slider: where to look.
  drawTicks() {
    const width = this.ticks.parentElement.clientWidth - 12, key = `${width} ${this.version} ${this.end}`;
    if (key === this.ticked) return;
    this.ticked = key;
    const context = prepare(this.ticks, Math.max(60, width), 12);
    const paths = new Map();
    for (const story of this.order || []) {
      if (!paths.has(story.fate)) paths.set(story.fate, new Path2D());
      const tall = story.fate === "delivered" ? 5 : 12;
      paths.get(story.fate).rect((story.begin - 1) / (this.end - 1) * width, 12 - tall, Math.max(1, Math.min(4, width / this.end - 1)), tall);
    }
    for (const [fate, path] of paths) { context.fillStyle = COLOURS[fate]; context.globalAlpha = fate === "delivered" ? 0.6 : 1; context.fill(path); }
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

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.destroy();
  },
};
