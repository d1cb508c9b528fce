// The document's pieces. Whatever the server or its clients named becomes a text node and nothing else: no markup is ever
// made of text here, and the page's policy (Trusted Types) would not let it.

const at = id => document.getElementById(id);

function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// An element with attributes and children; strings become text, a function under `on…` a listener.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Makes the children of `parent` those of `items`, in order. A child stays the same element while its key is there, so that
// focus, selection and the pointer are not lost each second.
function sync(parent, items, keyOf, build, update) {
  const old = new Map([...parent.children].map(child => [child.dataset.key, child]));
  items.forEach((item, place) => {
    const key = String(keyOf(item));
    let child = old.get(key);
    old.delete(key);
    if (!child) {
      child = build(item);
      child.dataset.key = key;
    }
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    update(child, item);
  });
  for (const child of old.values()) child.remove();
}

// A table body of rows [key, head, …cells]; a cell is a text or an element, a head may be a function that makes it once.
// Without rows it says so.
function fill(body, rows, none) {
  const items = rows.length ? rows.map(([key, ...row]) => [`row ${key}`, ...row]) : [["none", none]];
  const build = ([key, head, ...cells]) => (key === "none" ? make("tr", {}, make("td", { class: "none", colspan: 4 }))
    : make("tr", {}, make("th", { scope: "row" }, typeof head === "function" ? head() : head), ...cells.map(() => make("td"))));
  sync(body, items, ([key]) => key, build, (row, [key, head, ...cells]) => {
    if (key === "none") show(row.cells[0], head);
    cells.forEach((content, i) => put(row.cells[i + 1], content));
  });
}

// The content of a cell, unless it is there already.
function put(cell, content) {
  if (typeof content === "string") return show(cell, content);
  if (cell.firstChild !== content) cell.replaceChildren(content);
}

// A list of terms and their values.
function define(list, pairs) {
  const parts = pairs.flatMap(([term, value]) => [["dt", term, term], ["dd", term, value]]);
  sync(list, parts, ([tag, term]) => tag + term, ([tag]) => make(tag), (element, [, , text]) => show(element, text));
}

// How much of something is used, as a bar with its name and a text. Colour is never alone: "high" and "at limit" are written.
const HIGH = 0.8;
const LIMIT = 0.95;

function bar(name) {
  return make("span", { class: "bar", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1 }, make("i"));
}

function setBar(element, part, text) {
  const within = isKnown(part) ? Math.min(1, Math.max(0, part)) : 0;
  element.firstChild.style.setProperty("--part", within);
  element.setAttribute("aria-valuenow", within.toFixed(3));
  element.setAttribute("aria-valuetext", text);
}

const levelOf = part => (part >= LIMIT ? "limit" : part >= HIGH ? "high" : "calm");

// Gauges of [name, part, text, is a warning due].
function gauges(parent, items) {
  const build = ([name]) => make("div", { class: "gauge" }, make("span", { class: "soft" }, name), bar(name), make("span"));
  sync(parent, items, ([name]) => name, build, (gauge, [, part, text, warns = true]) => {
    gauge.dataset.level = warns ? levelOf(part) : "calm";
    setBar(gauge.children[1], part, text);
    show(gauge.children[2], text);
  });
}
