// The editor of zones and masks: by mouse, by finger, and by keyboard alone.
import { el, svg, swap } from "./board.js";

const mostShapes = 16, mostPoints = 64, small = 0.005, large = 0.05;
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const round = (v) => Math.round(Math.min(1, Math.max(0, v)) * 1e4) / 1e4;
const percent = (v) => Math.round(v * 100) + " %";

export class Editor {
  #shapes = []; #saved = "[]"; #past = []; #lastChange; #chosen = -1; #draft; #drag; #locked = "";

  // ui: drawing, layer, list, hint, addZone, addMask, closeShape, stopShape, undo, discard,
  // save; put(zones, masks) is a promise of what the board has now.
  constructor(ui) {
    this.ui = ui;
    this.size = { w: 1, h: 1 };
    ui.addZone.onclick = () => this.#begin("zone");
    ui.addMask.onclick = () => this.#begin("mask");
    ui.closeShape.onclick = () => this.#close();
    ui.stopShape.onclick = () => this.#stop();
    ui.undo.onclick = () => this.#undo();
    ui.discard.onclick = () => this.#discard();
    ui.save.onclick = () => this.#save();
    const d = ui.drawing;
    d.addEventListener("pointerdown", (e) => this.#down(e));
    d.addEventListener("pointermove", (e) => this.#move(e));
    d.addEventListener("pointerup", (e) => this.#up(e));
    d.addEventListener("pointercancel", (e) => this.#up(e));
    d.addEventListener("keydown", (e) => this.#key(e));
    d.addEventListener("focusin", (e) => this.#focused(e));
    new ResizeObserver(() => this.resize()).observe(d);
  }

  get dirty() { return !!this.#draft || JSON.stringify(this.#shapes) !== this.#saved; }

  resize() {
    const r = this.ui.drawing.getBoundingClientRect();
    this.size = { w: r.width || 1, h: r.height || 1 };
    this.ui.drawing.setAttribute("viewBox", `0 0 ${this.size.w} ${this.size.h}`);
    this.#render();
  }

  // show takes what the board has. It replaces unsaved work: ask dirty before. fresh
  // forgets what could be undone: it was of another pipeline.
  show(regions, fresh) {
    const shapes = [...regions.zones.map((z) => ({ kind: "zone", ...z })), ...regions.masks.map((z) => ({ kind: "mask", ...z }))];
    this.#locked = regions.locked ?? "";
    this.#saved = JSON.stringify(shapes);
    if (fresh || this.#saved !== JSON.stringify(this.#shapes)) {
      this.#shapes = shapes;
      this.#past = [];
      this.#chosen = -1;
      this.#lastChange = this.#draft = this.#drag = undefined;
    }
    this.#render();
  }

  // Changes.

  // Many small steps of one kind are undone at once.
  #change(what) {
    if (what && what === this.#lastChange) return;
    this.#lastChange = what;
    this.#past.push(JSON.stringify(this.#shapes));
    if (this.#past.length > 200) this.#past.shift();
  }

  #undo() {
    this.#lastChange = undefined;
    if (this.#draft?.points.length) this.#draft.points.pop();
    else if (this.#draft) return this.#stop();
    else if (this.#past.length) {
      this.#shapes = JSON.parse(this.#past.pop());
      this.#chosen = Math.min(this.#chosen, this.#shapes.length - 1);
    }
    this.#render();
  }

  #discard() {
    this.#shapes = JSON.parse(this.#saved);
    this.#past = [];
    this.#chosen = -1;
    this.#draft = undefined;
    this.#render();
  }

  async #save() {
    const list = (kind) => this.#shapes.filter((s) => s.kind === kind).map(({ id, points }) => ({ id, points }));
    this.ui.save.disabled = true;
    try {
      this.show(await this.ui.put(list("zone"), list("mask")));
    } catch (e) {
      this.ui.say(e.message);
    }
    this.#render();
  }

  #begin(kind) {
    this.#draft = { kind, points: [], at: [0.5, 0.5], keys: false };
    this.#chosen = -1;
    this.#render();
    this.ui.drawing.focus({ preventScroll: true });
  }

  #stop() {
    const kind = this.#draft?.kind;
    this.#draft = undefined;
    this.#render();
    (kind === "mask" ? this.ui.addMask : this.ui.addZone).focus();
  }

  #add(at) {
    if (this.#draft.points.length < mostPoints) this.#draft.points.push(at.map(round));
    this.#draft.at = at;
  }

  #close(touch) {
    const d = this.#draft;
    if (!d || d.points.length < 3) return;
    this.#change();
    const names = new Set(this.#shapes.filter((s) => s.kind === d.kind).map((s) => s.id));
    let n = 1;
    while (names.has(`${d.kind}-${n}`)) n++;
    this.#shapes.push({ kind: d.kind, id: `${d.kind}-${n}`, points: d.points });
    this.#chosen = this.#shapes.length - 1;
    this.#draft = undefined;
    this.#render();
    if (touch) return; // or the keyboard would cover the picture
    const name = this.ui.list.querySelector(`[data-key="name/${this.#chosen}"]`);
    name?.focus();
    name?.select();
  }

  #remove(i) {
    this.#change();
    this.#shapes.splice(i, 1);
    this.#chosen = -1;
    this.#render();
    (this.ui.list.querySelector("input") ?? this.ui.addZone).focus();
  }

  #removePoint(i, p) {
    const { points } = this.#shapes[i];
    if (points.length <= 3) return this.ui.say("A shape needs three points. Remove the whole shape in the list.");
    this.#change();
    points.splice(p, 1);
    this.#focus(`point/${i}/${Math.min(p, points.length - 1)}`);
  }

  #insert(i, p) {
    const { points } = this.#shapes[i];
    if (points.length >= mostPoints) return;
    this.#change();
    const a = points[p], b = points[(p + 1) % points.length];
    points.splice(p + 1, 0, [round((a[0] + b[0]) / 2), round((a[1] + b[1]) / 2)]);
    this.#focus(`point/${i}/${p + 1}`);
  }

  // Mouse and finger.

  #at(e) {
    const r = this.ui.drawing.getBoundingClientRect();
    return [(e.clientX - r.left) / r.width, (e.clientY - r.top) / r.height].map((v) => Math.min(1, Math.max(0, v)));
  }

  #near(a, b, e) {
    const reach = e.pointerType === "touch" ? 22 : 12;
    return Math.hypot((a[0] - b[0]) * this.size.w, (a[1] - b[1]) * this.size.h) <= reach;
  }

  #down(e) {
    if (this.#locked || e.button || !e.isPrimary) return;
    const at = this.#at(e);
    if (this.#draft) {
      e.preventDefault();
      this.#draft.keys = false;
      const { points } = this.#draft;
      if (points.length >= 3 && this.#near(points[0], at, e)) return this.#close(e.pointerType === "touch");
      this.#add(at);
      this.#hold(points, points.length - 1, e);
    } else {
      const [what, i, p] = (e.target.dataset.key ?? "").split("/").map((v, n) => (n ? +v : v));
      if (what === "half") this.#insert(i, p);
      if (what === "point" || what === "half") {
        e.preventDefault();
        const held = what === "half" ? p + 1 : p;
        this.#change(what === "half" ? undefined : `drag/${i}/${held}/${e.timeStamp}`);
        if (what === "half") this.#past.pop(); // insert has said it
        this.#hold(this.#shapes[i].points, held, e);
        this.#focus(`point/${i}/${held}`);
      } else if (what === "shape") this.#focus(`shape/${i}`);
      else this.#chosen = -1;
    }
    if (this.#drag) this.ui.drawing.setPointerCapture(e.pointerId);
    this.#render();
  }

  // What is held keeps its distance from the finger: nothing jumps.
  #hold(points, p, e) {
    const at = this.#at(e);
    this.#drag = { points, p, id: e.pointerId, off: points[p].map((v, n) => v - at[n]) };
  }

  #pull(e) {
    const { points, p, off } = this.#drag, at = this.#at(e);
    points[p] = at.map((v, n) => round(v + off[n]));
  }

  #move(e) {
    if (this.#drag?.id === e.pointerId) this.#pull(e);
    else if (!this.#draft || e.pointerType === "touch") return;
    if (this.#draft) this.#draft.at = this.#at(e);
    this.#render();
  }

  #up(e) {
    if (this.#drag?.id !== e.pointerId) return;
    if (e.type === "pointerup") this.#pull(e);
    this.#drag = undefined;
    if (!this.#draft && this.#past.at(-1) === JSON.stringify(this.#shapes)) this.#past.pop(); // nothing has moved
    this.#render();
  }

  // Keyboard.

  #key(e) {
    if ((e.ctrlKey || e.metaKey) && e.key === "z") this.#undo();
    else if (e.ctrlKey || e.metaKey || e.altKey || this.#locked) return;
    else if (this.#draft) {
      if (!this.#keyDrawing(e)) return;
    } else if (!this.#keyShape(e)) return;
    e.preventDefault();
  }

  #keyDrawing(e) {
    const d = this.#draft;
    if (arrows[e.key]) {
      d.keys = true;
      d.at = step(d.at, e);
    } else if (e.key === " ") {
      d.keys = true;
      this.#add(d.at);
    } else if (e.key === "Enter") this.#close();
    else if (e.key === "Backspace" || e.key === "Delete") d.points.pop();
    else if (e.key === "Escape") this.#stop();
    else return false;
    this.#render();
    return true;
  }

  #keyShape(e) {
    const [what, i, p] = (e.target.dataset.key ?? "").split("/").map((v, n) => (n ? +v : v));
    if (what === "point") {
      if (arrows[e.key]) {
        this.#change(`move/${i}/${p}`);
        this.#shapes[i].points[p] = step(this.#shapes[i].points[p], e).map(round);
        this.#render();
      } else if (e.key === "Delete" || e.key === "Backspace") this.#removePoint(i, p);
      else if (e.key === "Insert" || e.key === "+") this.#insert(i, p);
      else if (e.key === "Escape") this.#focus(`shape/${i}`);
      else return false;
    } else if (what === "shape") {
      if (e.key === "Delete" || e.key === "Backspace") this.#remove(i);
      else if (e.key === "Enter" || e.key === " ") this.#focus(`point/${i}/0`);
      else return false;
    } else return false;
    return true;
  }

  #focused(e) {
    const [what, i] = (e.target.dataset.key ?? "").split("/");
    if (what === "shape" && this.#chosen !== +i) {
      this.#chosen = +i;
      this.#render();
    }
  }

  #focus(key) {
    this.#chosen = +key.split("/")[1];
    this.#render();
    this.ui.drawing.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
  }

  // Showing.

  #px([x, y]) { return [x * this.size.w, y * this.size.h]; }
  #path(points) { return points.map((p) => this.#px(p).map((v) => v.toFixed(1)).join(",")).join(" "); }

  #render() {
    const { ui } = this, focused = document.activeElement?.dataset?.key;
    const edit = !this.#locked;
    ui.layer.replaceChildren(...this.#shapes.flatMap((s, i) => this.#shape(s, i, edit)), ...this.#sketch());
    if (focused && ui.drawing.contains(document.activeElement) === false) {
      ui.layer.querySelector(`[data-key="${focused}"]`)?.focus({ preventScroll: true });
    }
    const drawing = !!this.#draft, count = (kind) => this.#shapes.filter((s) => s.kind === kind).length;
    ui.drawing.classList.toggle("drawing", drawing);
    ui.drawing.classList.toggle("editing", edit && this.#chosen >= 0); // a finger moves corners, not the page
    if (drawing) ui.drawing.setAttribute("tabindex", "0");
    else ui.drawing.removeAttribute("tabindex");
    ui.addZone.hidden = ui.addMask.hidden = drawing;
    ui.closeShape.hidden = ui.stopShape.hidden = !drawing;
    ui.addZone.disabled = !edit || count("zone") >= mostShapes;
    ui.addMask.disabled = !edit || count("mask") >= mostShapes;
    ui.closeShape.disabled = !drawing || this.#draft.points.length < 3;
    ui.undo.disabled = !edit || !(drawing || this.#past.length);
    ui.save.hidden = drawing;
    ui.save.disabled = drawing || !this.dirty;
    ui.discard.hidden = drawing || !this.dirty;
    const hint = this.#hint();
    if (ui.hint.textContent !== hint) ui.hint.textContent = hint;
    this.#rows(edit);
  }

  #hint() {
    if (this.#locked) return this.#locked;
    if (this.#draft) {
      return "Tap the corners on the picture, then the first one again. By keyboard: arrows move the cross, with Shift further; Space sets a corner, Enter closes, Escape stops.";
    }
    if (this.#chosen >= 0) return "Drag a corner to move it, a small dot to add one. By keyboard: Tab to a corner, arrows move it, Delete removes it, Insert adds one.";
    return this.#shapes.length ? "" : "Events happen in zones. What is under a mask does not count.";
  }

  #shape(s, i, edit) {
    const chosen = i === this.#chosen, [x, y] = this.#px(s.points.reduce((a, b) => (b[1] < a[1] ? b : a)));
    const what = `${s.kind === "zone" ? "Zone" : "Mask"} ${s.id}`;
    const parts = [
      svg("polygon", {
        class: `shape ${s.kind} ${s.kind === "zone" ? "c" + (i % 6) : ""} ${chosen ? "chosen" : ""}`, points: this.#path(s.points),
        fill: s.kind === "mask" ? "url(#hatch)" : null, "data-key": "shape/" + i, tabindex: edit && !this.#draft ? 0 : null, role: edit ? "button" : "img",
        "aria-label": `${what}, ${s.points.length} corners`, "aria-description": edit ? "Enter goes to its corners, Delete removes it" : null,
      }),
      svg("text", { x: Math.min(Math.max(x - 10, 4), this.size.w - 8 * s.id.length), y: Math.max(y - 10, 16) }, s.id),
    ];
    if (!chosen || !edit || this.#draft) return parts;
    s.points.forEach((p, n) => {
      const q = s.points[(n + 1) % s.points.length], [hx, hy] = this.#px([(p[0] + q[0]) / 2, (p[1] + q[1]) / 2]);
      parts.push(svg("circle", { class: "half", cx: hx, cy: hy, r: 5, "data-key": `half/${i}/${n}` }));
    });
    s.points.forEach((p, n) => {
      const [cx, cy] = this.#px(p), held = this.#drag?.points === s.points && this.#drag.p === n;
      parts.push(svg("circle", {
        class: held ? "grip held" : "grip", cx, cy, r: 18, "data-key": `point/${i}/${n}`, tabindex: 0, role: "button",
        "aria-label": `Corner ${n + 1} of ${s.points.length} of ${what}: ${percent(p[0])} from the left, ${percent(p[1])} from the top`,
        "aria-description": "Arrows move it, Delete removes it, Insert adds one behind it",
      }), svg("circle", { class: "knob", cx, cy, r: 6.5 }));
    });
    return parts;
  }

  // What is being drawn.
  #sketch() {
    const d = this.#draft;
    if (!d) return [];
    const [x, y] = this.#px(d.at), colour = d.kind === "zone" ? "c" + (this.#shapes.length % 6) : "mask";
    return [
      svg("polyline", { class: "rubber " + colour, points: this.#path([...d.points, ...(this.#drag ? [] : [d.at])]) }),
      ...d.points.map((p, n) => svg("circle", { class: "knob", cx: this.#px(p)[0], cy: this.#px(p)[1], r: n ? 5 : 9 })),
      d.keys && svg("path", { class: "cross", d: `M${x - 14} ${y}h28M${x} ${y - 14}v28` }),
    ].filter(Boolean);
  }

  #rows(edit) {
    const { list } = this.ui;
    if (list.childElementCount !== this.#shapes.length || !list.contains(document.activeElement)) {
      swap(list, this.#shapes.map((s, i) => this.#row(s, i)));
    }
    [...list.children].forEach((row, i) => {
      const s = this.#shapes[i], input = row.querySelector("input");
      if (input.value !== s.id) input.value = s.id;
      row.querySelectorAll("input, button").forEach((e) => { e.disabled = !edit; });
    });
  }

  #row(s, i) {
    return el("li", null,
      el("span", { class: "swatch " + (s.kind === "zone" ? "c" + (i % 6) : "mask"), "aria-hidden": "true" }),
      el("small", null, s.kind),
      el("input", {
        type: "text", maxlength: 32, spellcheck: "false", autocapitalize: "off", autocomplete: "off", "data-key": "name/" + i, "aria-label": `Name of the ${s.kind}`,
        onfocus: () => { this.#chosen = i; this.#render(); },
        oninput: (e) => {
          this.#change("name/" + i);
          this.#shapes[i].id = e.target.value.toLowerCase().replace(/[^a-z0-9-]+/g, "-");
          this.#render();
        },
      }),
      el("button", { class: "quiet", "aria-label": `Remove the ${s.kind} ${s.id}`, onclick: () => this.#remove(i) }, "Remove"));
  }
}

function step(at, e) {
  const by = e.shiftKey ? large : small;
  return at.map((v, n) => Math.min(1, Math.max(0, v + arrows[e.key][n] * by)));
}
