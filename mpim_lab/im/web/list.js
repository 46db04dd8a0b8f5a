// The conversations at the left: whose, who is there, what was said last, how much is new.

import { byId, element, reconcile, setData, setFace, setText, timeOf } from "./page.js";

const WORDS = { online: "online", offline: "offline", unknown: "unknown" };

export class List {
  // choose(name): somebody wants to see this conversation.
  constructor(choose) {
    this.choose = choose;
    this.root = byId("list");
    this.root.addEventListener("keydown", (event) => this.walk(event));
  }

  draw(chat, chosen) {
    const conversations = [...chat.conversations.values()].sort(newestFirst);
    byId("no-conversations").hidden = conversations.length > 0;
    this.root.hidden = conversations.length === 0;
    reconcile(this.root, conversations, {
      key: (conversation) => conversation.name,
      make: (conversation) => this.row(conversation),
      update: (row, conversation) => update(row.firstElementChild, conversation, chat, chosen),
    });
  }

  row(conversation) {
    const button = element("button", "conversation", { type: "button", "data-testid": "conversation", "data-name": conversation.name },
      element("span", "face", { "aria-hidden": "true" }), element("span", "title"), element("span", "when"),
      element("span", "last"), element("span", "unread"));
    button.addEventListener("click", () => this.choose(conversation.name));
    if (conversation.group === null) {
      const presence = element("span", "presence", { "data-testid": "presence", "data-uid": conversation.other });
      button.querySelector(".last").append(presence);
    }
    return element("li", "", {}, button);
  }

  // Up and down go from one conversation to the next.
  walk(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...this.root.querySelectorAll("button")], at = buttons.indexOf(document.activeElement);
    buttons[Math.max(0, Math.min(buttons.length - 1, at + step))]?.focus();
    event.preventDefault();
  }
}

function newestFirst(one, other) {
  return (other.latest?.at_ms ?? 0) - (one.latest?.at_ms ?? 0) || one.name.localeCompare(other.name);
}

function update(button, conversation, chat, chosen) {
  const [face, title, when, last, unread] = button.children, { latest, group, other } = conversation;
  const isSelf = other === chat.uid;
  setFace(face, conversation.title, group !== null);
  setText(title, isSelf ? `${other} (me)` : conversation.title);
  setText(when, latest ? timeOf(latest.at_ms) : "");
  const said = latest ? `${latest.sender === chat.uid ? "me" : latest.sender}: ${latest.text}` : "";
  if (group !== null) setText(last, conversation.isLeft ? "left" : said || conversation.people);
  else {
    const status = isSelf ? "online" : chat.statuses.get(other) ?? "unknown";
    setData(last.firstElementChild, { status });
    setText(last.firstElementChild, WORDS[status] ?? status);
    if (last.childNodes.length < 2) last.append("");
    const text = latest ? ` · ${latest.sender === chat.uid ? "me: " : ""}${latest.text}` : "";
    if (last.lastChild.data !== text) last.lastChild.data = text;
  }
  setText(unread, conversation.unread ? String(conversation.unread) : "");
  unread.setAttribute("aria-label", conversation.unread ? `${conversation.unread} new` : "");
  button.setAttribute("aria-current", String(conversation.name === chosen));
}
