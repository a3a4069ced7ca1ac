// The live picture, with what the model saw drawn over it: by the browser, so that it
// is as sharp as the screen.
import { get, of, svg } from "./board.js";

export class View {
  #source; #pipeline; #again; #busy = false; #next; #wait = 1000;

  constructor({ stage, canvas, boxes, nothing, lost }) {
    Object.assign(this, { stage, canvas, boxes, nothing, lost });
    this.size = { w: 1, h: 1 };
    document.addEventListener("visibilitychange", () => this.#run());
  }

  open(pipeline, aspect) {
    if (pipeline === this.#pipeline) return;
    this.#pipeline = pipeline;
    this.#aspect(aspect || 16 / 9);
    this.clear("Waiting for a picture …");
    this.#stop();
    this.#run();
  }

  close() {
    this.#pipeline = undefined;
    this.#stop();
  }

  clear(text) {
    this.nothing.textContent = text;
    this.stage.classList.add("blank");
    this.canvas.hidden = true;
    this.boxes.replaceChildren();
  }

  // A page that nobody looks at costs the board nothing.
  #run() {
    if (document.hidden || !this.#pipeline) return this.#stop();
    if (this.#source) return;
    const source = this.#source = new EventSource("api/v1/" + of(this.#pipeline, "preview"));
    source.onmessage = (e) => {
      this.#wait = 1000;
      this.#show(JSON.parse(e.data), source);
    };
    source.onerror = () => this.#broken(source);
  }

  #stop() {
    clearTimeout(this.#again);
    this.#source?.close();
    this.#source = this.#next = undefined;
  }

  async #broken(source) {
    if (source !== this.#source) return;
    this.#stop();
    this.#again = setTimeout(() => this.#run(), this.#wait = Math.min(2 * this.#wait, 15000));
    const is = await get("session").catch(() => null);
    if (is && !is.in) this.lost();
    else if (!this.#source) this.clear(is ? "The board sends no picture just now." : "The board does not answer.");
  }

  // The newest wins: what comes while one is being decoded replaces what waits.
  async #show(view, source) {
    this.#next = view;
    if (this.#busy) return;
    this.#busy = true;
    while ((view = this.#next) && source === this.#source) {
      this.#next = undefined;
      const picture = view.jpeg && await decode(view.jpeg);
      if (source !== this.#source) break;
      this.#draw(picture, view.items);
    }
    this.#busy = false;
  }

  #draw(picture, items) {
    this.stage.classList.toggle("blank", !picture);
    this.canvas.hidden = !picture;
    if (picture) {
      if (this.canvas.width !== picture.width || this.canvas.height !== picture.height) {
        Object.assign(this.canvas, { width: picture.width, height: picture.height });
        this.#aspect(picture.width / picture.height);
      }
      this.canvas.getContext("2d").drawImage(picture, 0, 0);
      picture.close();
    }
    const plain = items.filter((i) => !i.box);
    this.nothing.textContent = plain.slice(0, 3).map(words).join(" · ") || (picture || items.length ? "" : "Nothing is seen just now.");
    this.canvas.setAttribute("aria-label", "What the pipeline sees: " + (items.map(words).join(", ") || "nothing"));
    this.boxes.replaceChildren(...items.filter((i) => i.box).reverse().map((i) => this.#box(i)));
  }

  #box(item) {
    const { w, h } = this.size, [x0, y0, x1, y1] = item.box;
    const r = { x: x0 * w, y: y0 * h, width: Math.max(0, x1 - x0) * w, height: Math.max(0, y1 - y0) * h, rx: 3 };
    return svg("g", null, svg("rect", { class: "box under", ...r }), svg("rect", { class: "box", ...r }),
      svg("text", { x: Math.max(4, r.x + 4), y: r.y > 20 ? r.y - 6 : r.y + 17 }, words(item)));
  }

  #aspect(a) {
    this.stage.style.aspectRatio = a;
    this.stage.style.width = `min(100%, calc(72vh * ${a}))`;
  }
}

export const words = (i) => `${i.label} ${Math.round(i.score * 100)} %`;

async function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/jpeg" })).catch(() => null);
}
