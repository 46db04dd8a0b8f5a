// Small pieces of a page. Text goes in as text, never as HTML.

const COLOURS = 7;  // of .face in mpim.css

export const byId = (id) => document.getElementById(id);

export function element(tag, className, attributes = {}, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Change what is different, and nothing else: what stands still is not read out again.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setData(node, values) {
  for (const [name, value] of Object.entries(values)) if (node.dataset[name] !== String(value)) node.dataset[name] = value;
}

// Make the children of a node those of `items`, in their order, with the elements of those that were there before.
export function reconcile(parent, items, { key, make, update }) {
  const had = new Map([...parent.children].map((child) => [child.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = had.get(name);
    if (child) had.delete(name);
    else {
      child = make(item);
      child.key = name;
    }
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of had.values()) child.remove();
}

// A disc (a person) or a square (a group) with a letter, of one colour for one name.
export function setFace(node, title, isGroup) {
  let sum = 0;
  for (const sign of title) sum = (sum * 31 + sign.codePointAt(0)) % 9973;
  setText(node, isGroup ? "#" : title.slice(0, 1).toUpperCase());
  node.classList.toggle("group", isGroup);
  setData(node, { colour: sum % COLOURS });
}

export const timeOf = (at_ms) => new Date(at_ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
export const dayOf = (at_ms) => new Date(at_ms).toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", year: "numeric" });
