// My messages that no gateway has acknowledged yet, in the order I wrote them; stored for the window, also over a reload.

const RESPONSE_TIMEOUT_MS = 10_000;    // unanswered for so long: sent again, with the same id
const MIN_PAUSE_MS = 500, MAX_PAUSE_MS = 5000;

// One message of each conversation is in flight at a time, so their order holds even if one has to be sent again.
export class Outbox {
  constructor(storage, key, limit = 200) {
    Object.assign(this, { storage, key, limit });
    this.entries = this.load();          // {id, conversation, text, at_ms, again_at, tries}
  }

  get isFull() { return this.entries.length >= this.limit; }

  add(entry) {
    this.entries.push({ ...entry, again_at: 0, tries: 0 });
    this.save();
  }

  remove(id) {
    this.entries = this.entries.filter((entry) => entry.id !== id);
    this.save();
  }

  // What is to be sent now; it counts as sent. `untilDisconnected`: wait for a response as long as the connection lasts.
  due(now, untilDisconnected = false) {
    const seen = new Set(), due = [];
    for (const entry of this.entries) {
      if (seen.has(entry.conversation)) continue;
      seen.add(entry.conversation);
      if (entry.again_at > now) continue;
      entry.again_at = untilDisconnected ? Infinity : now + RESPONSE_TIMEOUT_MS;
      due.push(entry);
    }
    return due;
  }

  // The gateway could not do it now: try again after a pause.
  postpone(id, now) {
    const entry = this.entries.find((one) => one.id === id);
    if (entry) entry.again_at = now + Math.min(MAX_PAUSE_MS, MIN_PAUSE_MS * 2 ** entry.tries++);
  }

  // The connection broke: nobody knows which of them arrived.
  reopen() {
    for (const entry of this.entries) entry.again_at = 0;
  }

  // When the next one is due, from now, in ms; null if nothing waits for a time.
  next_ms(now) {
    const times = this.entries.map((entry) => entry.again_at).filter((at) => at > now && at < Infinity);
    return times.length ? Math.min(...times) - now : null;
  }

  load() {
    try {
      const kept = JSON.parse(this.storage.getItem(this.key) ?? "[]");
      return kept.map((entry) => ({ ...entry, again_at: 0, tries: 0 }));
    } catch {
      return [];                         // not ours, or of an older page
    }
  }

  save() {
    const kept = this.entries.map(({ id, conversation, text, at_ms }) => ({ id, conversation, text, at_ms }));
    this.storage.setItem(this.key, JSON.stringify(kept));
  }
}
