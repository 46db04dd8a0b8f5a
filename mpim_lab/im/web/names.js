// Names of users, groups and conversations, and ids of messages: the rules of mpim_lab/im/protocol/requests.py.

const NAME = /^[A-Za-z0-9_.-]{1,64}$/;

export const isName = (text) => NAME.test(text);

// The name of two users' conversation, whoever writes first.
export const directName = (one, other) => [one, other].sort().join(":");

// No two are the same; also where the browser keeps randomUUID for encrypted pages.
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
