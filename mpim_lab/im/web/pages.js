// Asking for what was missed: `sync` of one conversation after the other, a few at a time, until each has everything.

const MOST_ASKED = 4;
const ANSWER_MS = 5000;               // not answered by then: asked again, and each time later
const IN_VAIN_MS = 500, MOST_IN_VAIN_MS = 60_000;

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

  // A page has come; `isFurther`: it brought something.
  answered(conversation, isFurther) {
    this.asked.delete(conversation);
    this.timers.stop(`page-${conversation.name}`);
    conversation.vain = isFurther ? 0 : conversation.vain + 1;
    if (conversation.order.isBehind) {
      if (isFurther) this.ask(conversation);
      else this.askLater(conversation, Math.min(MOST_IN_VAIN_MS, IN_VAIN_MS * 2 ** conversation.vain));
    }
    this.pump();
  }

  pump() {
    for (const conversation of this.waiting) {
      if (this.asked.size >= MOST_ASKED) return;
      this.waiting.delete(conversation);
      this.asked.add(conversation);
      this.send({ t: "sync", conversation: conversation.name, after: conversation.order.position });
      const patience_ms = Math.min(MOST_IN_VAIN_MS, ANSWER_MS * 2 ** conversation.vain);
      this.timers.later(`page-${conversation.name}`, patience_ms, () => {
        conversation.vain += 1;
        this.asked.delete(conversation);
        this.ask(conversation);
      });
    }
  }

  // The connection broke: nobody will answer.
  forget() {
    this.waiting.clear();
    this.asked.clear();
  }
}
