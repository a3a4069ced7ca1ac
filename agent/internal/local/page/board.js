// What the page asks of the board. All paths are relative: the page may stand behind
// a prefix.

export class Problem extends Error {
  constructor(p) {
    const plain = (text) => text.replaceAll("`", "");
    super(plain([p.detail, p.fix].filter(Boolean).join(": ")).replace(/^./, (c) => c.toUpperCase()));
    this.status = p.status;
  }
}

export async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch("api/v1/" + path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(path === "doctor" ? 70000 : 10000),
    });
  } catch {
    throw new Problem({ status: 0, detail: "The board does not answer" });
  }
  const json = await answer.json().catch(() => ({ status: answer.status, detail: "The board's answer cannot be read" }));
  if (!answer.ok) throw new Problem({ ...json, status: answer.status });
  return json;
}

export const get = (path) => call("GET", path);
export const of = (pipeline, what) => `pipelines/${encodeURIComponent(pipeline)}/${what}`;

// el makes an element. Text stays text, whatever a model calls its labels.
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(e, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value != null) e.setAttribute(name, value);
  }
  e.append(...children.flat(Infinity).filter((c) => c != null && c !== false));
  return e;
}

export const $ = (id) => document.getElementById(id);

// swap replaces what a place shows, unless it is the same already.
export function swap(place, ...children) {
  const next = el("div", null, ...children);
  if (place.innerHTML !== next.innerHTML) place.replaceChildren(...next.childNodes);
}

let hide;
export function say(text) {
  $("toast").textContent = text;
  $("toast").classList.add("on");
  clearTimeout(hide);
  hide = setTimeout(() => $("toast").classList.remove("on"), 5000);
}
