// FlowView: messages in flight, and the space-time diagram of the same run. What happened is decided in Python
// (scene_builder.py); here it is only drawn. Time is counted in steps, one for each attempt to send.

const SPEEDS = [0.5, 1, 2, 4, 8, 16, 64, 256];
const FALL = 1.2;  // steps for which a lost message is seen falling
const MIN_HEIGHT = 190, ROW = 46, LANE = 62, LOW_LANE = 44, MAX_LANES = 6, LEFT = 118, TRAVEL = 0.35;

const laneHeight = (nodes) => (nodes.length > MAX_LANES ? LOW_LANE : LANE);

class View {
  constructor(model, host) {
    this.model = model;
    this.scene = { producers: [], channels: [], consumers: [], bands: [], steps: 0, note: "", live: false };
    this.stories = new Map();
    this.legs = []; this.bySettling = [];
    this.at = 1; this.playing = false; this.speed = 4; this.chosen = null; this.zoom = 0; this.frame = 0; this.times = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.build(host);
    this.onMessage = (message) => this.receive(message);
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
    button("slower", "slower (-)", () => this.changeSpeed(-1));
    this.rate = bar.appendChild(element("span", "mpim-rate"));
    button("faster", "faster (+)", () => this.changeSpeed(1));
    button("fit", "fit everything, or back to readable (f)", () => { this.zoom = this.zoom ? 0 : 1; this.draw(); });
    this.words = element("div", "mpim-story", { "aria-live": "polite" });
    this.words.textContent = "Click a message, or choose one with ↑ and ↓, to read its history.";
    root.append(head, this.flow, this.space, bar, this.words);
    root.addEventListener("keydown", (event) => this.key(event));
    this.flow.addEventListener("click", (event) => this.pick(event, this.flowSpots));
    this.space.addEventListener("click", (event) => this.pick(event, this.spotsInSpace()));
    host.append(root);
    this.changeSpeed(0);
  }

  key(event) {
    if (event.target !== this.root && event.key === " ") return;  // a focused button answers the space bar itself
    if (event.target === this.slider && event.key.startsWith("Arrow")) return;
    const keys = {
      " ": () => this.toggle(), ArrowRight: () => this.seek(Math.floor(this.at) + 1), ArrowLeft: () => this.seek(Math.ceil(this.at) - 1),
      Home: () => this.seek(1), End: () => this.seek(this.end), "+": () => this.changeSpeed(1), "-": () => this.changeSpeed(-1),
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

  receive(message) {
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
      if (story.fate === "lost" || story.fate === "dead-lettered") story.over = Math.max(story.begin, ...story.legs.map((leg) => leg.end));
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

  // High enough for the longest column.
  get flowHeight() { return Math.max(MIN_HEIGHT, 34 + ROW * (1 + Math.max(0, ...this.columns().map((names) => names.length)))); }

  get end() { return Math.max(2, this.scene.steps + 1.4, ...this.scene.bands.map((band) => band.end)); }

  // Playing

  toggle() { if (this.playing) this.pause(); else { if (this.at >= this.end) this.at = 1; this.play(); } }
  play() { this.playing = true; setIcon(this.player, "pause"); this.last = performance.now(); this.schedule(); }
  pause() { this.playing = false; setIcon(this.player, "play"); this.draw(); }
  seek(at) { this.pause(); this.at = Math.min(Math.max(at, 1), this.end); this.draw(); }
  changeSpeed(by) {
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
    title.append(symbol(story.fate), element("b", "", {}, story.id), ` ${WORDS[story.fate]}` + (story.silently_lost ? `, although it was acknowledged “${this.scene.acknowledgement}”` : ""));
    const list = this.words.appendChild(element("ol", ""));
    for (const line of story.log) list.append(element("li", "", {}, line));
  }

  // Drawing

  draw() {
    if (this.root.clientWidth < 60) return;  // not on the page, or out of sight
    const begun = performance.now();
    const width = Math.max(320, this.root.clientWidth - 24);
    this.drawFlow(prepare(this.flow, width, this.flowHeight), width);
    const nodes = [...this.scene.producers, ...this.scene.channels, ...this.scene.consumers];
    const height = 34 + laneHeight(nodes) * Math.max(nodes.length, 1) + (nodes.length > MAX_LANES ? 12 : 0);
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
    const counts = { delivered: 0, duplicated: 0, lost: 0, pending: 0, "dead-lettered": 0 };
    let silent = 0;
    for (const story of this.order || []) {
      if (story.begin > this.at) continue;
      if (story.silently_lost && story.over <= this.at) silent += 1;
      counts[story.over <= this.at ? story.fate : "pending"] += 1;
    }
    const text = JSON.stringify([counts, silent]);
    if (text !== this.counted) {
      this.counted = text;
      this.legend.replaceChildren();
      for (const fate of Object.keys(counts)) {
        if (fate === "dead-lettered" && !counts[fate]) continue;
        const item = this.legend.appendChild(element("span", "mpim-count", { "data-fate": fate }));
        item.append(symbol(fate), `${counts[fate]} ${WORDS[fate]}`);
      }
      if (silent) this.legend.append(element("span", "mpim-count mpim-silent", { "data-fate": "silently-lost" }, `${silent} of them acknowledged “${this.scene.acknowledgement}”`));
    }
    this.badge.textContent = this.scene.live ? "live" : this.scene.note;
    this.badge.classList.toggle("mpim-live", this.scene.live);
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

Object.assign(View.prototype, FlowPicture, SpaceTimePicture);

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.destroy();
  },
};
