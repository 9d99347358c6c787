// Building and changing the document. Text only ever becomes text: nothing here parses HTML.

const $ = (id) => document.getElementById(id);

/** An element: `make("p", {class: "quiet", onclick: f}, "text", child, …)`; empty children are left out. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/**
 * Show one element an item, in order. An item whose description (its JSON) did not change keeps its
 * element, and with it the focus; the focus of one that is made anew goes to the same button again.
 */
function showEach(parent, items, keyOf, describe, build) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const said = JSON.stringify(describe(item));
    const old = before.get(key);
    if (old && old.dataset.said === said) return old;
    const fresh = build(item);
    fresh.dataset.key = key;
    fresh.dataset.said = said;
    const focused = old?.contains(document.activeElement) ? document.activeElement.name : null;
    if (old) old.replaceWith(fresh);
    if (focused) fresh.querySelector(`[name="${CSS.escape(focused)}"]`)?.focus();
    return fresh;
  });
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  wanted.forEach((element, place) => {
    if (parent.children[place] !== element) parent.insertBefore(element, parent.children[place] ?? null);
  });
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function gib(bytes) {
  return `${(bytes / 2 ** 30).toFixed(bytes < 10 * 2 ** 30 ? 1 : 0)} GiB`;
}

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
