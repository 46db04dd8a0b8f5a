// One connection to a gateway that is made anew whenever it breaks: token, WebSocket, heartbeat, backoff.

const MIN_WAIT_MS = 200, MAX_WAIT_MS = 5000;
const STEADY_MS = 5000;   // a connection that lasted this long ends the backoff
const OPEN_MS = 10_000;   // from asking for a token to `welcome`

// How long to wait before try number `tries` (from 0): doubled each time, and spread, so that not all come at once.
export function backoff_ms(tries, random = Math.random()) {
  return Math.max(MIN_WAIT_MS, Math.min(MAX_WAIT_MS, MIN_WAIT_MS * 2 ** tries) * (0.5 + random / 2));
}

// listener: {frame(frame), phase(phase, wait_ms), refused(text), unreadable(text)}.
// phase: "connecting", "connected", "waiting" (then wait_ms), "stopped".
export class Connection {
  constructor({ host, secure, uid, device }, listener) {
    Object.assign(this, { host, secure, uid, device, listener });
    this.socket = null;
    this.attempt = 0;      // a response to an earlier attempt comes too late
    this.tries = 0;
    this.welcomed_at = 0;
    this.unanswered = 0;   // pings since the last frame
    this.isLeaving = false;
    this.timers = {};
    this.clock = null;
    this.onOnline = () => { if (this.timers.reconnect) this.connect(); };
  }

  start() {
    addEventListener("online", this.onOnline);
    this.clock = new Worker("/clock.js");
    this.clock.addEventListener("message", () => { if (this.welcomed_at) this.heartbeat(); });
    return this.connect();
  }

  stop() {
    removeEventListener("online", this.onOnline);
    this.clock?.terminate();
    this.drop();
    this.listener.phase("stopped", 0);
  }

  // Returns whether the frame was handed to the socket; nothing more.
  send(frame) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(frame));
    return true;
  }

  async connect() {
    this.drop();
    const attempt = this.attempt;
    this.listener.phase("connecting", 0);
    this.timers.open = setTimeout(() => this.reconnect(), OPEN_MS);
    let token;
    try {
      token = await this.token();
    } catch (error) {
      if (attempt !== this.attempt) return;
      if (error instanceof Refused) { this.stop(); this.listener.refused(error.message); } else this.reconnect();
      return;
    }
    if (attempt === this.attempt) this.open(token, attempt);
  }

  async token() {
    const address = `/login?user=${encodeURIComponent(this.uid)}`;
    const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(OPEN_MS) });
    const body = await answer.json();
    if (answer.status >= 400 && answer.status < 500 && answer.status !== 429) throw new Refused(body.text || "this name was refused");
    if (!answer.ok || typeof body.token !== "string") throw new Error(`no token: status ${answer.status}`);
    return body.token;
  }

  open(token, attempt) {
    const socket = this.socket = new WebSocket(`${this.secure ? "wss" : "ws"}://${this.host}/ws`);
    const current = () => attempt === this.attempt;
    socket.addEventListener("open", () => current() && this.send({ t: "hello", token, device: this.device, packed: false }));
    socket.addEventListener("message", (event) => current() && this.receive(event.data));
    socket.addEventListener("close", () => current() && this.reconnect());
  }

  receive(data) {
    this.unanswered = 0;
    let frame;
    try {
      frame = JSON.parse(data);
      if (typeof frame?.t !== "string") throw new TypeError("no frame");
    } catch {
      this.listener.unreadable(String(data).slice(0, 80));
      return;
    }
    if (frame.t === "welcome") this.welcome(frame);
    if (frame.t === "bye") this.isLeaving = true;
    this.listener.frame(frame);
    if (frame.t === "bye") this.reconnect();
  }

  welcome({ silent_s }) {
    clearTimeout(this.timers.open);
    this.welcomed_at = performance.now();
    this.clock.postMessage(Math.max(250, (silent_s * 1000) / 3));
    this.listener.phase("connected", 0);
  }

  // Send a heartbeat. If the last two got no response, the gateway is gone.
  heartbeat() {
    if (this.unanswered >= 2) this.reconnect();
    else if (this.send({ t: "ping" })) this.unanswered += 1;
  }

  // Connect again: at once if a gateway that served us for a while sent `bye`, else after a pause.
  reconnect() {
    const lasted_ms = this.welcomed_at ? performance.now() - this.welcomed_at : 0;
    if (lasted_ms >= STEADY_MS) this.tries = 0;
    const wait_ms = this.isLeaving && lasted_ms >= 1000 ? 0 : backoff_ms(this.tries++);
    this.drop();
    this.listener.phase("waiting", wait_ms);
    this.timers.reconnect = setTimeout(() => this.connect(), wait_ms);
  }

  drop() {
    this.attempt += 1;
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
    this.timers = {};
    Object.assign(this, { unanswered: 0, welcomed_at: 0, isLeaving: false });
    this.socket?.close();
    this.socket = null;
  }
}

class Refused extends Error {}
