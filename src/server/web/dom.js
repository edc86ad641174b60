// Short ways to make and change elements. Text always becomes text nodes, so an answer can never become markup.

export const byId = (id) => document.getElementById(id);

/** element("p.note", "text", child, ...): tag and classes, then children; null children are left out. */
export function element(selector, ...children) {
  const [tag, ...classes] = selector.split(".");
  const node = document.createElement(tag);
  node.classList.add(...classes);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function attributes(node, values) {
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
  return node;
}

/** Does nothing when the text is the same, because live regions would be read aloud again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The policy of the page forbids style attributes; custom properties set by script are allowed. */
export function setShare(node, share) {
  node.style.setProperty("--share", String(Math.min(1, Math.max(0, share || 0))));
}
