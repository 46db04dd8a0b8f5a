// Things to do later, by name: whoever asks again for one that waits already asks for nothing more.

export class Timers {
  constructor() { this.waiting = new Map(); }

  later(name, wait_ms, act) {
    if (this.waiting.has(name)) return;
    this.waiting.set(name, setTimeout(() => { this.waiting.delete(name); act(); }, wait_ms));
  }

  stop(name) {
    clearTimeout(this.waiting.get(name));
    this.waiting.delete(name);
  }

  stopAll() {
    for (const name of [...this.waiting.keys()]) this.stop(name);
  }
}
