// MPIM's web page: who logs in, and the one conversation with a gateway that follows from it.

import { Chat } from "./chat.js";
import { newId } from "./names.js";
import { byId, setText } from "./page.js";
import { onSubmit, View } from "./view.js";

const view = new View();

// "web" and a random part: of this window, also after a reload. A copied window finds its name in use, and makes another.
async function deviceName() {
  const kept = sessionStorage.getItem("mpim-device");
  const device = kept && await reserve(kept) ? kept : `web-${newId().slice(0, 8)}`;
  if (device !== kept) await reserve(device);
  sessionStorage.setItem("mpim-device", device);
  return device;
}

// Hold a name as long as this window is open. Returns whether no other window has it; a page that closes releases it.
function reserve(name) {
  if (!navigator.locks) return true;
  return new Promise((answer) => {
    const held = () => { answer(true); return new Promise(() => {}); };
    navigator.locks.request(`mpim-${name}`, { signal: AbortSignal.timeout(500) }, held).catch(() => answer(false));
  });
}

const device = deviceName();

async function login(uid) {
  setText(byId("login-wrong"), "");
  const at = { host: location.host, secure: location.protocol === "https:", uid, device: await device, storage: sessionStorage };
  const chat = new Chat(at, {
    changed: () => view.changed(),
    refused: (text) => { logout(); setText(byId("login-wrong"), text); },
    joined: (name) => view.choose(name),
  });
  view.show(chat);
  history.replaceState(null, "", `?user=${encodeURIComponent(uid)}`);
  chat.start();
}

function logout() {
  view.chat?.stop();
  view.show(null);
  history.replaceState(null, "", "/");
  byId("login-name").focus();
}

onSubmit("login", () => login(byId("login-name").value.trim()));
byId("logout").addEventListener("click", logout);
const user = new URLSearchParams(location.search).get("user");
if (user) login(user);
else byId("login-name").focus();
