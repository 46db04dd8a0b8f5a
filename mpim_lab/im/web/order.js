// The rule of one conversation: messages in the order of their numbers, each once. No clock, no network, no page.

// Numbers begin at 1. `position`: everything up to it was released. `last`: the highest number known to exist.
// `base`: numbers up to it are history, which this page may never get; null: the first page of messages says it.
export class Order {
  constructor(position = 0, { last = position, base = null, limit = 1000 } = {}) {
    this.position = position;
    this.last = last;
    this.base = base;
    this.limit = limit;
    this.early = new Map();  // number -> message that came too early
    this.gaps = [];          // [first, last] of what is gone for good
  }

  get isBehind() { return this.position < this.last; }

  // A message came: returns what may be shown now, in order. Known ones return nothing.
  add(message) {
    if (this.early.size < this.limit || message.sequence === this.position + 1) this.hold(message);
    this.last = Math.max(this.last, message.sequence);  // if the buffer was full: a page brings it again
    return this.release();
  }

  // The answer to "what came after number `after`?": returns what may be shown now, messages and {gap: [first, last]}.
  addPage({ messages, last, missing }) {
    this.last = Math.max(this.last, last);
    for (const message of messages) this.hold(message);
    if (missing) this.gaps.push(missing);
    const first = messages.length ? messages[0].sequence - 1 : last;
    if (this.base === null) this.base = missing ? Math.min(first, missing[0] - 1) : first;
    const known = messages.at(-1)?.sequence ?? missing?.[1] ?? last;  // the page says nothing about numbers above it
    return this.release(Math.min(this.base, known));
  }

  // The system's numbers went back (its server lost some): go on from its last one.
  rewind(last) {
    this.position = last;
    this.last = last;
    this.early.clear();
    this.gaps = [];
  }

  hold(message) {
    const number = message.sequence;
    this.last = Math.max(this.last, number);
    if (number > this.position && !this.early.has(number)) this.early.set(number, message);
  }

  // `passable`: history up to this number that was not given is skipped without a notice.
  release(passable = 0) {
    const released = [];
    for (;;) {
      const next = this.position + 1, message = this.early.get(next);
      const gap = this.gaps.find(([from, to]) => from <= next && next <= to);
      if (message) {
        this.early.delete(next);
        this.position = next;
        released.push(message);
      } else if (gap) {
        this.position = Math.min(gap[1], this.nextHeld() - 1);
        released.push({ gap: [next, this.position], had: this.base !== null && this.position <= this.base });
      } else if (next <= passable) {
        this.position = Math.min(passable, this.nextHeld() - 1, ...this.gaps.map(([from]) => from - 1).filter((n) => n >= next));
      } else break;
    }
    this.gaps = this.gaps.filter(([, to]) => to > this.position);
    return released;
  }

  nextHeld() {
    let lowest = Infinity;
    for (const number of this.early.keys()) if (number > this.position && number < lowest) lowest = number;
    return lowest;
  }
}
