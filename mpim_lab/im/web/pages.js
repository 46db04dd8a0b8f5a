// Fetching what was missed: `sync` of one conversation after the other, a few at a time, until each has everything.

const MAX_IN_FLIGHT = 4;
const RESPONSE_TIMEOUT_MS = 5000;    // no response by then: asked again, and each time later
const RETRY_MS = 500, MAX_RETRY_MS = 60_000;

export class Pages {
  constructor(send, timers) {
    Object.assign(this, { send, timers });
    this.waiting = new Set();         // conversations
    this.asked = new Set();
  }

  ask(conversation) {
    if (!this.asked.has(conversation)) this.waiting.add(conversation);
    this.pump();
  }

  // In `wait_ms` it may have come by itself.
  askLater(conversation, wait_ms) {
    this.timers.later(`gap-${conversation.name}`, wait_ms, () => { if (conversation.order.isBehind) this.ask(conversation); });
  }

  // A page has come; `hasNews`: it brought something.
  answered(conversation, hasNews) {
    this.asked.delete(conversation);
    this.timers.stop(`page-${conversation.name}`);
    conversation.retries = hasNews ? 0 : conversation.retries + 1;
    if (conversation.order.isBehind) {
      if (hasNews) this.ask(conversation);
      else this.askLater(conversation, Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** conversation.retries));
    }
    this.pump();
  }

  pump() {
    for (const conversation of this.waiting) {
      if (this.asked.size >= MAX_IN_FLIGHT) return;
      this.waiting.delete(conversation);
      this.asked.add(conversation);
      this.send({ t: "sync", conversation: conversation.name, after: conversation.order.position });
      const timeout_ms = Math.min(MAX_RETRY_MS, RESPONSE_TIMEOUT_MS * 2 ** conversation.retries);
      this.timers.later(`page-${conversation.name}`, timeout_ms, () => {
        conversation.retries += 1;
        this.asked.delete(conversation);
        this.ask(conversation);
      });
    }
  }

  // The connection broke: no response will come.
  forget() {
    this.waiting.clear();
    this.asked.clear();
  }
}
