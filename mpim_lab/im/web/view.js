// The page as a whole: header, banners, and the forms; the list at the left and the messages at the right draw themselves.

import { ConversationView } from "./conversation_view.js";
import { List } from "./list.js";
import { isName } from "./names.js";
import { byId, element, reconcile, setData, setFace, setText } from "./page.js";

const FRAME_MS = 16;

export class View {
  constructor() {
    this.chat = null;
    this.chosen = null;
    this.isWaiting = false;
    this.drafts = new Map();
    this.list = new List((name) => this.choose(name));
    this.messages = new ConversationView({ again: (item) => this.chat.sendAgain(item, this.chosen) });
    this.bind();
  }

  // Draw soon, once for all that changed until then.
  changed() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    setTimeout(() => { this.isWaiting = false; this.draw(); }, FRAME_MS);
  }

  show(chat) {
    this.chat = chat;
    this.chosen = null;
    this.drafts.clear();  // whoever is next at this window
    byId("login-view").hidden = Boolean(chat);
    byId("chat-view").hidden = !chat;
    byId("who").hidden = !chat;
    setText(byId("me"), chat ? chat.uid : "");
    if (chat) setFace(byId("my-face"), chat.uid, false);
    byId("chat-view").dataset.pane = "list";
    this.draw();
  }

  choose(name) {
    this.chosen = name;
    byId("chat-view").dataset.pane = "messages";
    this.draw();
    byId("composer").value = this.drafts.get(name) ?? "";
    byId("composer").focus();
  }

  draw() {
    const { chat } = this;
    this.drawState();
    this.drawBanners(chat ? chat.banners : []);
    if (!chat) {
      document.title = "MPIM";
      return;
    }
    const conversation = chat.conversations.get(this.chosen);
    this.messages.draw(chat, conversation);  // before its unread ones count as read: it marks them
    chat.setVisible(document.hidden || !byId("pane").offsetParent ? null : this.chosen);
    this.list.draw(chat, this.chosen);
    const unread = [...chat.conversations.values()].reduce((sum, one) => sum + one.unread, 0);
    document.title = `${unread ? `(${unread}) ` : ""}${chat.uid} – MPIM`;
  }

  drawState() {
    const { phase, gateway, wait_ms } = this.chat ?? { phase: "out" };
    const seconds = wait_ms >= 950 ? Math.round(wait_ms / 1000) : (wait_ms / 1000).toFixed(1);
    const words = {
      out: "not logged in", connecting: "connecting…", connected: `connected to ${gateway}`, stopped: "disconnected",
      waiting: wait_ms ? `reconnecting in ${seconds} s` : "reconnecting…",
    };
    setData(byId("gateway"), { phase });
    setText(byId("gateway"), words[phase]);
  }

  drawBanners(banners) {
    reconcile(byId("banners"), banners, {
      key: (banner) => banner.key,
      make: ({ key, kind, text }) => {
        const close = element("button", "quiet", { type: "button", "aria-label": "Dismiss" }, "×");
        close.addEventListener("click", () => this.chat?.dismiss(key));
        return element("div", `banner ${kind}`, { role: kind === "notice" ? "status" : "alert", "data-testid": kind },
          element("b", "", {}, kind), element("span", "", {}, text), close);
      },
      update: () => {},
    });
  }

  bind() {
    const composer = byId("composer");
    composer.addEventListener("input", () => this.drafts.set(this.chosen, composer.value));
    composer.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("composer-form").requestSubmit();
    });
    onSubmit("composer-form", () => this.send());
    onSubmit("person-form", () => {
      const uid = byId("new-person").value.trim();
      byId("new-person").value = "";
      this.choose(this.chat.direct(uid).name);
    });
    onSubmit("group-form", () => this.createGroup());
    byId("join-group").addEventListener("click", () => this.askGroup("join"));
    byId("leave").addEventListener("click", () => this.ask(this.chosen.slice(1), "leave"));
    byId("back").addEventListener("click", () => {
      byId("chat-view").dataset.pane = "list";
      this.draw();
    });
    document.addEventListener("visibilitychange", () => this.changed());
    addEventListener("resize", () => this.changed());
  }

  send() {
    const composer = byId("composer");
    if (!composer.value.trim()) return;
    const wrong = this.chat.send(this.chosen, composer.value);
    if (wrong) return this.chat.complain(wrong, wrong);
    composer.value = "";
    this.drafts.delete(this.chosen);
    this.draw();
    this.messages.end();
  }

  createGroup() {
    const members = byId("new-group-members").value.split(/[\s,;]+/).filter(Boolean);
    const wrong = members.find((name) => !isName(name));
    if (wrong !== undefined) return this.chat.complain(`name-${wrong}`, `“${wrong}” is not a name: use letters, digits, "_", "." or "-"`);
    if (this.askGroup("create", members)) byId("new-group-members").value = "";
  }

  askGroup(action, members = []) {
    const field = byId("new-group"), group = field.value.trim().replace(/^#/, "");
    if (!field.reportValidity() || !this.ask(group, action, members)) return false;
    field.value = "";
    return true;
  }

  ask(group, action, members) {
    const isAsked = this.chat.group(group, action, members);
    if (!isAsked) this.chat.complain("offline-group", `not connected: try to ${action} #${group} again when there is a gateway`);
    return isAsked;
  }
}

export function onSubmit(id, act) {
  byId(id).addEventListener("submit", (event) => { event.preventDefault(); act(); });
}
