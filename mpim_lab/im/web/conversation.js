// What this page has of one conversation: its messages, mine that are in flight, its members.

import { Order } from "./order.js";

const MAX_SHOWN = 1000;  // older ones are removed from the page; the gateway still has them

// An item is a message {id, sender, text, at_ms, sequence, state, status, problem} or a {gap: [first, last], key}.
// state: "received" (another's); of mine: "sending", "kept", or "failed".
export class Conversation {
  constructor(name, me) {
    this.name = name;
    this.me = me;
    this.group = name.startsWith("#") ? name.slice(1) : null;
    const others = this.group === null ? name.split(":") : [];
    this.other = this.group === null ? (others[0] === me ? others[1] : others[0]) : null;
    this.order = new Order();
    this.acked = 0;       // what the gateway knows that I have
    this.log = [];        // in the order of the numbers
    this.pending = [];    // mine, not yet in the log
    this.members = new Set(this.group === null ? [this.other] : []);
    this.isListed = this.group === null;  // all members are known
    this.isAsked = false;  // over this connection: who is in this group
    this.unread = 0;
    this.dropped = 0;     // how many were removed from the page at its upper end
    this.isLeft = false;
    this.isSynced = false;  // a welcome or a page has given its last number
    this.isJoining = false;  // messages from before I joined are history
    this.retries = 0;     // syncs that brought nothing, since the last that did
  }

  get title() { return this.group === null ? this.other : `#${this.group}`; }
  get people() { return !this.isListed ? "a group" : this.members.size === 1 ? "1 member" : `${this.members.size} members`; }
  get heading() { return this.group !== null && this.isListed ? `${this.title} · ${this.people}` : this.title; }
  get lacksMembers() { return this.group !== null && !this.isLeft && !this.isAsked; }
  get items() { return [...this.log, ...this.pending]; }
  get latest() { return this.pending.at(-1) ?? this.log.findLast((item) => item.id !== undefined) ?? null; }

  // The numbers of the conversation at `welcome`: show what is not acknowledged, and the last `context` messages.
  // Returns false if the system's numbers went back behind what this page has.
  startAt(acked, last, context = 50) {
    if (!this.isSynced && this.order.position === 0) {
      this.order = new Order(Math.min(acked, Math.max(0, last - context)), { last, base: acked });
    }
    this.isSynced = true;
    const wentBack = last < this.order.position;
    if (wentBack) this.order.rewind(last);
    this.order.last = Math.max(this.order.last, last);
    this.acked = acked;
    return !wentBack;
  }

  // A sender is a member of the group; if this one is new, there may be more.
  addMember(uid) {
    this.isAsked &&= this.members.has(uid);
    if (this.group !== null) this.members.add(uid);
  }

  // A message of mine that is to be sent.
  addPending(entry) {
    const item = { ...entry, sender: this.me, state: "sending", status: "", problem: "" };
    this.pending.push(item);
    return item;
  }

  // A message of mine.
  find(id) {
    const isIt = (item) => item.id === id && item.sender === this.me;
    return this.pending.find(isIt) ?? this.log.findLast(isIt);
  }

  // Put released messages into the log, mine in place of the pending ones. Returns the new messages of others.
  show(released) {
    const fresh = [];
    for (const one of released) {
      if (one.gap) this.log.push({ ...one, key: `gap-${one.gap[0]}-${one.gap[1]}` });
      else if (one.sender === this.me) this.log.push(this.confirmed(one));
      else {
        this.log.push({ ...one, at_ms: one.at_ms || Date.now(), state: "received", status: "", problem: "" });
        if (one.sequence > (this.order.base ?? 0) || !one.sequence) fresh.push(one);
      }
    }
    if (this.log.length > MAX_SHOWN) this.dropped += this.log.splice(0, this.log.length - MAX_SHOWN).length;
    return fresh;
  }

  // Mine is stored: remove it from the pending ones.
  confirmed(message) {
    const at = this.pending.findIndex((item) => item.id === message.id);
    const item = at < 0 ? { status: "" } : this.pending.splice(at, 1)[0];
    return Object.assign(item, message, { state: "kept", problem: "", at_ms: message.at_ms || item.at_ms || Date.now() });
  }

  // Mine, stored under a number before the position: insert it at its place.
  place(item) {
    if (!this.pending.includes(item) || item.sequence > this.order.position) return;
    this.pending.splice(this.pending.indexOf(item), 1);
    const after = this.log.findIndex((one) => (one.gap?.[0] ?? one.sequence) > item.sequence);
    this.log.splice(after < 0 ? this.log.length : after, 0, item);
  }
}
