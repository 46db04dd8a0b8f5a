// The messages of the chosen conversation, and what belongs to it: who is there, and the field to write in.

import { byId, dayOf, element, reconcile, setData, setFace, setText, timeOf } from "./page.js";

const NEAR_PX = 60;           // this near to its end, the log follows new messages
const RUN_MS = 5 * 60_000;    // messages of one sender within this time are grouped
const STATUS_TEXT = {
  pushed: "the receiver’s gateway has it", stored: "the receiver was offline: it waits in the offline store", known: "sent again; the server had it already",
  success: "the naive version acknowledges this, whatever happened to the message",
};

export class ConversationView {
  // acts: {again(item), follow()}; follow: the end of the log was reached, or left.
  constructor(acts) {
    this.acts = acts;
    this.log = byId("log");
    this.messages = byId("messages");
    this.name = null;
    this.newAfter = null;     // the item after which the new ones begin
    this.seen = 0;            // how many items there were when the end was last in sight
    this.log.addEventListener("scroll", () => { if (this.isAtEnd()) this.down(); });
    byId("down").addEventListener("click", () => this.end());
  }

  isAtEnd() { return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR_PX; }

  end() {
    this.log.scrollTop = this.log.scrollHeight;
    this.down();
  }

  down() {
    this.seen = this.messages.childElementCount;
    byId("down").hidden = true;
  }

  draw(chat, conversation) {
    for (const id of ["pane-head", "log", "composer-form"]) byId(id).hidden = !conversation;
    byId("nothing").hidden = Boolean(conversation);
    if (!conversation) return;
    const isOther = conversation.name !== this.name, wasAtEnd = isOther || this.isAtEnd();
    if (isOther) this.open(conversation);
    drawHead(chat, conversation);
    byId("dropped").hidden = !conversation.dropped;
    setText(byId("dropped"), `${conversation.dropped} older messages are not shown`);
    reconcile(this.messages, this.rows(conversation, chat), {
      key: (row) => row.key, make: (row) => this.make(row), update: (node, row) => row.item?.id && update(node, row),
    });
    if (wasAtEnd) this.end();
    else byId("down").hidden = this.messages.childElementCount <= this.seen;
  }

  open(conversation) {
    this.name = conversation.name;
    this.messages.replaceChildren();
    const theirs = conversation.log.filter((item) => item.state === "received");
    this.newAfter = conversation.unread ? theirs.at(-conversation.unread) ?? null : null;
  }

  // Everything that stands in the log, one under the other: days, gaps, "new", messages.
  rows(conversation, chat) {
    const rows = [];
    let day = "", before = null;
    for (const item of conversation.items) {
      if (item.gap) {
        rows.push({ key: item.key, mark: gapText(item), kind: "gap" });
        before = null;
        continue;
      }
      const isOne = item.sequence || item.sender === chat.uid;  // an id is its sender's; the naive version shows some messages twice
      const key = `${item.sender}/${item.id}${isOne ? "" : `-${rows.length}`}`;
      const today = dayOf(item.at_ms);
      if (today !== day) rows.push({ key: `day-${today}-${key}`, mark: today, kind: "day" });
      if (item === this.newAfter) rows.push({ key: "fresh", mark: "new", kind: "fresh" });
      const isFirst = today !== day || item === this.newAfter || before?.sender !== item.sender || item.at_ms - before.at_ms > RUN_MS;
      rows.push({ key, item, isFirst, isMine: item.sender === chat.uid, again: () => this.acts.again(item) });
      day = today;
      before = item;
    }
    return rows;
  }

  make({ item, mark, kind, isMine, again }) {
    if (mark) return element("li", `mark ${kind}`, { "data-kind": kind }, mark);
    const retry = element("button", "retry", { type: "button" }, "Try again");
    retry.addEventListener("click", () => retry.act());
    retry.act = again;
    return element("li", isMine ? "message mine" : "message", { "data-testid": "message", "data-id": item.id },
      element("p", "sender", {}, isMine ? "me" : item.sender),
      element("div", "bubble", {}, element("p", "text", {}, item.text), element("p", "problem"), retry,
        element("p", "about", {}, element("time", ""), element("span", "number"), element("span", "fate"))));
  }
}

function gapText({ gap: [first, last], had }) {
  const which = first === last ? `number ${first} is` : `numbers ${first} to ${last} are`;
  return had ? `${which} no longer kept` : `${which} gone`;
}

function update(node, { item, isFirst, isMine }) {
  node.classList.toggle("first", isFirst);
  node.querySelector(".sender").hidden = !isFirst;
  setData(node, { state: item.state, sequence: item.sequence || "", status: item.status ?? "" });
  const time = node.querySelector("time"), at = new Date(item.at_ms);
  setText(time, timeOf(item.at_ms));
  if (time.dateTime !== at.toISOString()) Object.assign(time, { dateTime: at.toISOString(), title: at.toLocaleString() });
  const number = node.querySelector(".number"), fate = node.querySelector(".fate");
  setText(number, item.sequence ? `no. ${item.sequence}` : "");
  setText(fate, isMine ? fateText(item) : "");
  fate.title = STATUS_TEXT[item.status] ?? "";
  setText(node.querySelector(".problem"), item.problem);
  node.querySelector(".retry").hidden = item.state !== "failed";
}

function fateText({ state, status }) {
  if (state === "sending") return "sending…";
  if (state === "failed") return "not sent";
  if (status === "success") return "acknowledged “success”";
  return status && status !== "known" ? `kept · ${status}` : "kept";
}

function drawHead(chat, conversation) {
  const { group, other, members, isLeft } = conversation, people = byId("pane-people");
  setFace(byId("pane-face"), conversation.title, group !== null);
  setText(byId("pane-name"), conversation.heading);
  byId("leave").hidden = group === null || isLeft;
  for (const id of ["composer", "send"]) byId(id).disabled = isLeft;
  byId("composer").placeholder = isLeft ? "You left this group" : `Message to ${conversation.title}`;
  const shown = group === null ? [other] : [...members].sort();
  const rows = shown.map((uid) => ({ uid, status: uid === chat.uid ? "online" : chat.statuses.get(uid) ?? "unknown" }));
  if (!conversation.isListed) rows.push({ uid: "" });  // known are only those who wrote
  reconcile(people, rows, {
    key: ({ uid }) => uid,
    make: ({ uid }) => (uid ? element("span", "presence", { "data-testid": "member", "data-uid": uid }) : element("span", "", {}, "and others")),
    update: (node, { uid, status }) => {
      if (!uid) return;
      setData(node, { status });
      const word = status === "unknown" ? "" : ` ${status}`;
      setText(node, group === null ? word.trim() || "unknown" : `${uid === chat.uid ? "me" : uid}${word}`);
    },
  });
}
