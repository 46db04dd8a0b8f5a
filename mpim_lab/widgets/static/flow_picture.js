// FlowPicture: nodes, and messages that travel between them as dots. Methods of flow.js's View.
const FlowPicture = {
  // From left to right: who sends, the channels, who receives; or whatever columns the scene names.
  columns() { const { columns, producers, channels, consumers } = this.scene; return columns?.length ? columns : [producers, channels, consumers]; },

  places(width) {
    const places = new Map(), columns = this.columns(), edge = Math.min(columns.length > 3 ? 70 : 110, width * 0.16);
    columns.forEach((names, at) => names.forEach((name, index) => places.set(name, {
      x: edge + (width - 2 * edge) * at / Math.max(1, columns.length - 1), y: (this.flowHeight - 34) * (index + 1) / (names.length + 1),
    })));
    return places;
  },

  isAway(node) { return this.scene.bands.find((band) => band.node === node && band.begin <= this.at && this.at < band.end); },

  drawFlow(context, width) {
    const places = this.places(width), moving = new Map(), halo = new Path2D(), fallen = new Path2D(), deadLetters = new Path2D();
    this.flowSpots = [];
    context.lineWidth = 2; context.strokeStyle = this.theme.line; context.globalAlpha = 0.35;
    const columns = this.columns();
    for (let at = 1; at < columns.length; at += 1)
      for (const a of columns[at - 1]) for (const b of columns[at]) {
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
      if (isEnd(leg) && late >= 0) {
        y += (this.flowHeight - 30 - y) * Math.min(1, (late / FALL) ** 2);
        mark(leg.outcome === "dead-lettered" ? deadLetters : fallen, leg.outcome, x, y, 6);
      } else if (late > 0 || leg.outcome === "confirmation") {
        if (late > 0) continue;
        y += 22;
        if (!moving.has("confirmation")) moving.set("confirmation", new Path2D());
        mark(moving.get("confirmation"), "delivered", x, y, 3);
      } else {
        const spread = share === 0 && start > leg.begin ? ((leg.begin * 7) % 9 - 4) * 5 : ((leg.begin * 5) % 7 - 3) * 2.2;
        y += spread;
        const shown = isEnd(leg) || ["lost", "dead-lettered"].includes(leg.story.fate) ? "pending" : leg.story.fate;
        if (!moving.has(shown)) moving.set(shown, new Path2D());
        mark(moving.get(shown), shown, x, y, 6);
      }
      if (leg.story.id === this.chosen) mark(halo, "pending", x, y, 12);
      this.flowSpots.push({ x, y, story: leg.story });
    }
    this.drawSums(context, places);
    this.drawNodes(context, places);
    for (const [fate, path] of moving) paint(context, path, fate);
    paint(context, fallen, "lost", 3); paint(context, deadLetters, "dead-lettered");
    context.strokeStyle = this.theme.text; context.lineWidth = 1.6; context.stroke(halo);
  },

  // What is behind us: how many were handled, and those that were lost, lying on the floor.
  drawSums(context, places) {
    const lost = (this.order || []).filter((story) => story.fate === "lost" && story.over + FALL < this.at);
    const handled = (this.order || []).filter((story) => story.over <= this.at && ["delivered", "duplicated"].includes(story.fate)).length;
    context.textAlign = "center"; context.font = "13px system-ui, sans-serif"; context.fillStyle = this.theme.soft;
    const bob = places.get(this.scene.consumers.at(-1)), server = places.get(this.scene.channels[0]);
    if (bob && handled) context.fillText(`${handled.toLocaleString("en")} handled`, bob.x, bob.y + 36);
    if (!places.size) context.fillText("Nothing has been sent yet.", context.canvas.clientWidth / 2, this.flowHeight / 2);
    if (!server || !lost.length) return;
    const shown = lost.slice(0, 24), pile = new Path2D();
    shown.forEach((story, index) => {
      const x = server.x + 20 + 16 * index, y = this.flowHeight - 18;
      mark(pile, "lost", x, y, 5);
      this.flowSpots.push({ x, y, story });
    });
    context.textAlign = "right";
    context.fillText(`${lost.length.toLocaleString("en")} lost`, server.x + 4, this.flowHeight - 18);
    paint(context, pile, "lost", 2.4);
  },

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
  },
};
