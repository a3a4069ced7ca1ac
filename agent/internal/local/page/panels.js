// What the page says in words and numbers.
import { $, call, el, of, say, swap } from "./board.js";
import { words } from "./view.js";

const states = { runs: "works", degraded: "works, but not as it should", starting: "is starting", failed: "does not work", off: "is switched off" };
const reasons = { stale: "a newer one came", still: "nothing moved", busy: "no model was free", outbox: "the outbox was full", error: "errors" };
const origins = { file: "Set in the board's file", fleet: "Set by the fleet", home: "Set at home", default: "By default" };
const number = (v, digits = 0) => v.toLocaleString("en", { maximumFractionDigits: digits });
const bytes = (v) => (v >= 2 ** 30 ? number(v / 2 ** 30, 1) + " GiB" : v >= 2 ** 20 ? number(v / 2 ** 20, 1) + " MiB" : number(v / 2 ** 10) + " KiB");
const pairs = (list) => el("dl", null, list.filter(([, v]) => v).map(([k, v]) => [el("dt", null, k), el("dd", null, v)]));
const dot = (state) => el("span", { class: "dot " + state, "aria-hidden": "true" });

export function summary(s) {
  const ill = s.pipelines.filter((p) => p.state !== "runs");
  $("device").textContent = document.title = s.device;
  const text = ill.length ? ill.map((p) => `${p.name} ${states[p.state]}`).join(", ") + "." : s.pipelines.length ? "All is well." : "No pipelines yet.";
  const board = [s.board, s.version && "Covey " + s.version].filter(Boolean).join(" · ");
  if ($("summary").textContent !== `${text} ${board}`) $("summary").textContent = `${text} ${board}`;
}

export function tabs(all, name, choose) {
  const nav = $("pipelines"), focused = document.activeElement?.dataset?.pipeline;
  swap(nav, all.map((p) => el("button", { "data-pipeline": p.name, "aria-current": p.name === name ? "true" : null },
    dot(p.state), p.name, el("span", { class: "said" }, states[p.state]))));
  nav.onclick = (e) => { const b = e.target.closest("button"); if (b) choose(b.dataset.pipeline); };
  if (focused && !nav.contains(document.activeElement)) nav.querySelector(`[data-pipeline="${focused}"]`)?.focus();
}

export function privacy(p) {
  $("privacy").textContent = p.privacy.text;
}

export function numbers(p) {
  const dropped = Object.entries(p.dropped ?? {}).filter(([, n]) => n), sum = dropped.reduce((n, [, v]) => n + v, 0);
  const big = (value, unit) => el("div", null, el("b", null, value), el("span", null, unit));
  swap($("numbers"),
    p.text || p.state !== "runs" ? el("p", { class: "notice " + (p.state === "failed" ? "bad" : "warn") }, `${p.name} ${states[p.state]}. ${p.text ?? ""} ${p.code ? `(${p.code})` : ""}`) : null,
    el("div", { class: "big" }, big(number(p.fps, 1), "results per s"), big(number(p.p50_ms, 1), "ms, typical"), big(number(p.p99_ms, 1), "ms, worst 1\u00a0%")),
    el("p", { class: "muted" }, `${number(p.captured)} frames = ${number(p.published)} results + ${number(sum)} dropped`,
      dropped.length ? ": " + dropped.map(([r, n]) => `${number(n)} ${reasons[r] ?? r}`).join(", ") : ""),
    pairs([["Model", [p.model.name, p.model.version].filter(Boolean).join(" ") || "none yet"], ["Runs on", p.accelerator], ["Memory", p.memory && bytes(p.memory)], ["Source", p.source]]));
}

export function tried(p) {
  const rows = p.tried ?? [];
  swap($("tried"), rows.length
    ? el("table", null,
      el("thead", null, el("tr", null, el("th", { scope: "col" }, "Tried"), el("th", { scope: "col" }, "A run"), el("th", { scope: "col" }, "Outcome"))),
      el("tbody", null, rows.map((t) => el("tr", { class: t.in_use ? "use" : "" },
        el("td", null, t.accelerator, t.detail ? el("small", null, " " + t.detail) : null), el("td", { class: "num" }, t.ms ? number(t.ms, 1) + " ms" : "–"),
        el("td", null, t.in_use ? "in use" + (t.reason ? ": " + t.reason : "") : t.reason ?? "")))))
    : el("p", { class: "muted" }, "Nothing has been tried yet."));
}

export function facts(s) {
  const g = s.gauges, up = s.uptime_s, has = (v) => v !== undefined;
  swap($("facts"),
    s.links.map((l) => el("p", { class: l.up ? "" : "warn notice" }, l.up ? `The link to the ${l.name} is up.` : `The link to the ${l.name} is down${l.text ? ": " + l.text : "."}`)),
    s.links.length ? null : el("p", { class: "muted" }, "No links: all that is seen stays on this board."),
    pairs([
      ["Waits to be sent", number(s.outbox.waiting)], ["Could not be kept", s.outbox.lost ? number(s.outbox.lost) : ""],
      ["Processor", has(g.cpu_percent) && number(g.cpu_percent) + " %"], ["Temperature", has(g.temperature_c) && number(g.temperature_c, 1) + " °C" + (g.throttled ? ", throttled" : "")],
      ["Memory free", has(g.memory_free) && bytes(g.memory_free)], ["Disk free", has(g.disk_free) && bytes(g.disk_free)],
      ["Agent's own memory", s.memory && bytes(s.memory)],
      ["Running for", up < 3600 ? number(up / 60) + " min" : up < 172800 ? number(up / 3600) + " h" : number(up / 86400) + " days"],
      ...Object.entries(s.runtimes ?? {}).map(([k, v]) => ["Runtime " + k, v]),
    ]));
}

// Newest first; a picture only where the board has one.
export function events(list) {
  const time = (ts) => new Date(ts).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const what = { start: "came", end: "went", update: "changed" };
  swap($("events"), list.length ? list.map((e) => el("li", null,
    e.picture ? el("img", { src: `api/v1/events/${encodeURIComponent(e.id)}/picture`, alt: `${e.label} of ${time(e.ts)}`, loading: "lazy" }) : null,
    el("div", null, el("b", null, words(e)), ` ${what[e.type] ?? e.type}`, el("br"), el("small", null, [e.pipeline, e.zone].filter(Boolean).join(", "))),
    el("time", { datetime: e.ts }, time(e.ts)))) : el("li", { class: "muted" }, "Nothing has happened yet."));
}

export async function examine() {
  const button = $("examine");
  button.disabled = true;
  button.textContent = "Examining …";
  try {
    const { checks } = await call("GET", "doctor");
    swap($("checks"), [...checks].sort((a, b) => a.ok - b.ok).map((c) => el("li", null,
      el("span", { class: c.ok ? "good" : "bad" }, c.ok ? "✓" : "✗", el("span", { class: "said" }, c.ok ? "good" : "bad")),
      el("div", null, el("b", null, c.subject), " ", c.detail, c.fix ? [el("br"), el("code", null, c.fix)] : null))));
  } catch (e) {
    say(e.message);
  }
  button.disabled = false;
  button.textContent = "Examine the board";
}

// Settings have their effect while the slider moves: one request at a time, and the
// last value always gets there.
export class Settings {
  #pipeline; #wanted = new Map(); #sending = false; #held = false; #shape; #rows = [];

  // Rows stay where they are while their values change: a finger may be on its way.
  show(pipeline, list) {
    if (this.#sending || this.#held && pipeline === this.#pipeline) return;
    const shape = JSON.stringify([pipeline, list.map((s) => [s.name, s.title, typeof s.value, s.min, s.max, s.step, s.locked])]);
    this.#pipeline = pipeline;
    if (shape !== this.#shape) {
      this.#shape = shape;
      this.#rows = list.map((s) => this.#row(s));
      $("settings").replaceChildren(...(list.length ? this.#rows.map((r) => r.row) : [el("p", { class: "muted" }, "Nothing can be set here.")]));
    }
    list.forEach((s, i) => this.#rows[i].update(s));
  }

  #row(s) {
    const id = "set-" + s.name, disabled = !!s.locked;
    const from = el("small", { id: id + "-from" });
    const reset = el("button", { class: "reset", "aria-label": "Forget what was set here: " + s.title, onclick: () => this.#set(s, null) }, "Reset");
    const label = el("label", { for: id }, s.title), foot = el("div", null, from, reset), common = { id, disabled, "aria-describedby": id + "-from" };
    const origin = (now) => {
      from.textContent = disabled ? `🔒 ${s.locked}` : origins[now.origin] ?? now.origin;
      reset.hidden = disabled || now.origin !== "home";
    };
    if (typeof s.value === "boolean") {
      const box = el("input", { ...common, type: "checkbox", role: "switch", onchange: () => this.#set(s, box.checked) });
      return { row: el("div", { class: "setting" }, el("div", null, label, box), foot), update(now) { box.checked = now.value; origin(now); } };
    }
    const step = s.step || 0.01, digits = (String(step).split(".")[1] ?? "").length, out = el("output", { for: id });
    const tell = () => { out.textContent = (+range.value).toFixed(digits); };
    const range = el("input", {
      ...common, type: "range", min: s.min ?? 0, max: s.max ?? 1, step,
      onpointerdown: () => { this.#held = true; }, onpointerup: () => { this.#held = false; }, onpointercancel: () => { this.#held = false; },
      oninput: () => { tell(); this.#set(s, +range.value); },
    });
    return { row: el("div", { class: "setting" }, el("div", null, label, out), range, foot), update(now) { range.value = now.value; tell(); origin(now); } };
  }

  async #set(s, value) {
    this.#wanted.set(s.name, value);
    if (this.#sending) return;
    const pipeline = this.#pipeline;
    let list;
    this.#sending = true;
    try {
      while (this.#wanted.size) {
        const [name, v] = this.#wanted.entries().next().value;
        this.#wanted.delete(name);
        list = (await call("PUT", of(pipeline, "settings/" + name), { value: v })).settings;
      }
    } catch (e) {
      this.#wanted.clear();
      say(e.message);
      list = (await call("GET", of(pipeline, "settings")).catch(() => ({}))).settings;
    }
    this.#sending = false;
    if (list && pipeline === this.#pipeline) this.show(pipeline, list);
  }
}
