// What a user of MPIM has: conversations, presence, notices. Speaks the frames of mpim_lab/im/protocol/frames.py; knows no page.

import { Connection } from "./connection.js";
import { Conversation } from "./conversation.js";
import { directName, newId } from "./names.js";
import { Outbox } from "./outbox.js";
import { Pages } from "./pages.js";
import { Timers } from "./timers.js";

const GAP_MS = 200, ACK_MS = 50, WATCH_MS = 50;
const MAX_WATCHED = 200, MAX_FRAME_BYTES = 16 * 1024, MAX_BANNERS = 6;

export class Chat {
  // changed(): something is to be shown anew; refused(text): the login was refused; joined(name): a group I asked for.
  constructor({ host, secure, uid, device, storage }, { changed, refused, joined }) {
    Object.assign(this, { uid, changed, refused, joined });
    this.conversations = new Map();
    this.statuses = new Map();    // uid -> "online" or "offline"
    this.banners = [];            // {key, kind: "notice" or "problem", text}
    this.phase = "connecting";
    this.wait_ms = 0;
    this.gateway = "";
    this.ordered = true;
    this.visible = null;          // the name of the conversation that is on the screen
    this.wanted = new Set();      // groups I asked to create or join
    this.timers = new Timers();   // end with the connection
    this.pages = new Pages((frame) => this.connection.send(frame), this.timers);
    this.outbox = new Outbox(storage, `mpim-outbox-${uid}`);
    for (const entry of this.outbox.entries) this.conversation(entry.conversation).addPending(entry);
    this.connection = new Connection({ host, secure, uid, device }, {
      frame: (frame) => { this.receive(frame); this.changed(); },
      phase: (phase, wait_ms) => this.setPhase(phase, wait_ms),
      refused: (text) => this.refused(text),
      unreadable: (text) => this.complain("unreadable", `the gateway sent what is no frame: ${text}`),
    });
  }

  start() { return this.connection.start(); }
  stop() { this.connection.stop(); }

  // What a user does

  // Returns what is wrong with it, or "".
  send(name, text) {
    const entry = { id: newId(), conversation: name, text: text.toWellFormed?.() ?? text, at_ms: Date.now() };
    if (this.outbox.isFull) return "Too much is waiting to be sent: wait until the gateway answers.";
    if (new Blob([JSON.stringify(this.frameOf(entry))]).size > MAX_FRAME_BYTES) return "This message is too long.";
    this.outbox.add(entry);
    this.conversation(name).addPending(entry);
    this.flush();
    this.changed();
    return "";
  }

  sendAgain(item, name) {
    this.outbox.add({ id: item.id, conversation: name, text: item.text, at_ms: item.at_ms });
    Object.assign(item, { state: "sending", problem: "" });
    this.flush();
    this.changed();
  }

  direct(uid) { return this.conversation(directName(this.uid, uid)); }

  // action: "create", "join", "leave", or "members", which only asks. Returns whether it could be sent.
  group(group, action, members = []) {
    if (action === "create" || action === "join") this.wanted.add(group);
    return this.connection.send({ t: "group", group, action, members });
  }

  setVisible(name) {
    this.visible = name;
    const conversation = this.conversations.get(name);
    if (conversation) conversation.unread = 0;
    if (conversation?.lacksMembers && this.phase === "connected") conversation.isAsked = this.group(conversation.group, "members");
  }

  dismiss(key) {
    this.banners = this.banners.filter((banner) => banner.key !== key);
    this.changed();
  }

  complain(key, text, kind = "problem") {
    if (this.banners.some((banner) => banner.key === key)) return;
    this.banners = [...this.banners, { key, kind, text }].slice(-MAX_BANNERS);
    this.changed();
  }

  // What a gateway sends

  receive(frame) {
    const act = this[`on_${frame.t}`];
    if (act) act.call(this, frame);  // a frame of a newer gateway is ignored
  }

  on_welcome({ gateway, conversations, ordered = true }) {
    Object.assign(this, { gateway, ordered });
    for (const [name, [acked, last]] of Object.entries(conversations)) {
      const conversation = this.conversation(name);
      if (!ordered) continue;
      const had = conversation.order.position;
      if (!conversation.startAt(acked, last)) {
        this.complain(`back-${name}`, `${conversation.title}: the numbers went back from ${had} to ${last}: the system lost messages.`);
      }
      this.acknowledge(conversation);
      if (conversation.order.isBehind) this.pages.ask(conversation);
    }
    this.watch();
    this.flush();
  }

  on_push({ conversation: name, ...message }) {
    const conversation = this.conversation(name), isMine = message.sender === this.uid;
    if (isMine) this.outbox.remove(message.id);
    if (this.ordered) this.accept(conversation, message);
    else if (!isMine || conversation.find(message.id)?.state !== "kept") this.show(conversation, [{ ...message, sequence: 0 }]);
    this.flush();
  }

  on_sent({ id, conversation: name, sequence, told: status }) {
    this.outbox.remove(id);
    const conversation = this.conversation(name), item = conversation.find(id);
    if (item) {
      Object.assign(item, { state: "kept", status, problem: "", sequence: this.ordered ? sequence : 0 });
      if (this.ordered) this.accept(conversation, { id, sequence, sender: this.uid, text: item.text, at_ms: item.at_ms });
      conversation.place(item);
    }
    this.flush();
  }

  on_page({ conversation: name, ...page }) {
    const conversation = this.conversation(name), before = conversation.order.position;
    if (conversation.isJoining) conversation.startAt(page.last, page.last);
    Object.assign(conversation, { isSynced: true, isJoining: false });
    this.show(conversation, conversation.order.addPage(page));
    for (const { id, sender } of page.messages) if (sender === this.uid) this.outbox.remove(id);
    this.pages.answered(conversation, conversation.order.position > before);
    this.flush();
  }

  on_behind({ conversations }) {
    for (const [name, last] of Object.entries(conversations)) {
      const conversation = this.conversation(name);
      conversation.order.last = Math.max(conversation.order.last, last);
      if (conversation.order.isBehind) this.pages.ask(conversation);
      else conversation.acked = Math.min(conversation.acked, last - 1);  // it did not get my acknowledgement
      this.acknowledge(conversation);
    }
  }

  on_presence({ uid, status }) { this.statuses.set(uid, status); }

  on_group({ group, members }) {
    const conversation = this.conversation(`#${group}`);
    Object.assign(conversation, { members: new Set(members), isListed: true });
    conversation.isLeft = !members.includes(this.uid);
    conversation.isJoining = !conversation.isLeft && !conversation.isSynced && this.ordered;
    if (conversation.isJoining) this.pages.ask(conversation);
    if (this.wanted.delete(group)) this.joined(conversation.name);
    this.watch();
  }

  on_notice({ id, text }) { this.complain(`notice-${id}`, text, "notice"); }

  on_bye({ reason = "" }) {
    if (reason.startsWith("replaced")) this.connection.device = `web-${newId().slice(0, 8)}`;  // another window has that name
  }

  on_error({ error, text, id = "", definite = true, transient = false }) {
    const group = error === "NotAMember" && /^(?:group |sync #)(.+)$/.exec(id);
    if (group) return void (this.conversation(`#${group[1]}`).isLeft = true);
    const item = id && [...this.conversations.values()].map((one) => one.find(id)).find(Boolean);
    if (!item) return this.complain(`${error}-${text}`, `${error}: ${text}`);
    if (item.state === "kept") return;
    item.problem = `${error}: ${text}`;
    if (definite && !transient) {   // a retry would not help
      item.state = "failed";
      this.outbox.remove(id);
    } else this.outbox.postpone(id, performance.now());
    this.flush();
  }

  // Its state

  setPhase(phase, wait_ms) {
    Object.assign(this, { phase, wait_ms });
    if (phase !== "connected") {
      this.timers.stopAll();
      this.pages.forget();
      this.statuses.clear();
      this.outbox.reopen();
      for (const conversation of this.conversations.values()) conversation.isAsked = false;
    }
    this.changed();
  }

  conversation(name) {
    if (!this.conversations.has(name)) this.conversations.set(name, new Conversation(name, this.uid));
    this.timers.later("watch", WATCH_MS, () => this.watch());
    return this.conversations.get(name);
  }

  // A message with a number came: show it in order; what is missing before it may still come by itself.
  accept(conversation, message) {
    this.show(conversation, conversation.order.add(message));
    if (conversation.order.isBehind) this.pages.askLater(conversation, GAP_MS);
  }

  show(conversation, released) {
    const fresh = conversation.show(released);
    if (this.visible !== conversation.name) conversation.unread += fresh.length;
    for (const { sender } of fresh) conversation.addMember(sender);
    this.acknowledge(conversation);
  }

  acknowledge(conversation) {
    if (!this.ordered || conversation.order.position <= conversation.acked) return;
    this.timers.later(`ack-${conversation.name}`, ACK_MS, () => {
      const sequence = conversation.order.position;
      if (this.connection.send({ t: "ack", conversation: conversation.name, sequence })) conversation.acked = sequence;
    });
  }

  // Watch all members of my conversations that are not watched on this connection yet.
  watch() {
    const everybody = new Set([...this.conversations.values()].flatMap((conversation) => [...conversation.members]));
    const users = [...everybody].filter((uid) => uid !== this.uid && !this.statuses.has(uid));
    users.splice(Math.max(0, MAX_WATCHED - this.statuses.size));
    if (!users.length || !this.connection.send({ t: "presence", users })) return;
    for (const uid of users) this.statuses.set(uid, "unknown");
  }

  flush() {
    if (this.phase !== "connected") return;
    const now = performance.now();
    for (const entry of this.outbox.due(now, !this.ordered)) this.connection.send(this.frameOf(entry));
    const wait_ms = this.outbox.next_ms(now);
    this.timers.stop("outbox");
    if (wait_ms !== null) this.timers.later("outbox", wait_ms, () => this.flush());
  }

  frameOf({ id, conversation: name, text }) {
    const { group, other } = this.conversation(name);
    return group === null ? { t: "send", id, to: other, text } : { t: "send", id, group, text };
  }
}
