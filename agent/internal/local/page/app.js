// The page: who may see it, which pipeline is looked at, and the beat that keeps it fresh.
import { $, call, get, of, say } from "./board.js";
import { Editor } from "./editor.js";
import { View } from "./view.js";
import * as panels from "./panels.js";

const beat = 2000, most = 30;
let pipeline = "", beats = 0, timer, uptime = 0, seen = 0, events = [];

const view = new View({ stage: $("stage"), canvas: $("picture"), boxes: $("boxes"), nothing: $("nothing"), lost: start });
const settings = new panels.Settings();
const editor = new Editor({
  drawing: $("drawing"), layer: $("shapes"), list: $("list"), hint: $("hint"), say,
  addZone: $("add-zone"), addMask: $("add-mask"), closeShape: $("close-shape"), stopShape: $("stop-shape"), undo: $("undo"), discard: $("discard"), save: $("save"),
  async put(zones, masks) {
    const regions = await call("PUT", of(pipeline, "regions"), { zones, masks });
    say("Saved. It counts from the next picture on.");
    return regions;
  },
});
new ResizeObserver(() => { view.size = editor.size; }).observe($("drawing"));

async function start() {
  clearTimeout(timer);
  const session = await get("session").catch(() => null);
  if (!session) {
    $("summary").textContent = "The board does not answer. Trying again …";
    timer = setTimeout(start, 3000);
    return;
  }
  $("login").hidden = session.in;
  $("board").hidden = !session.in;
  $("leave").hidden = !session.leave;
  if (session.in) return refresh();
  view.close();
  $("summary").textContent = "This board asks for a password.";
  $("password").focus();
}

$("login").onsubmit = async (e) => {
  e.preventDefault();
  $("login-error").textContent = "";
  try {
    await call("POST", "session", { password: $("password").value });
    $("password").value = "";
    await start();
  } catch (err) {
    $("login-error").textContent = err.message;
    $("password").select();
  }
};
$("leave").onclick = () => call("DELETE", "session").catch((e) => say(e.message)).then(() => location.reload());
$("examine").onclick = panels.examine;
addEventListener("beforeunload", (e) => { if (editor.dirty) e.preventDefault(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && !$("board").hidden) refresh(); });

// refresh asks for everything, and again after a beat while somebody looks.
async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const status = await get("status");
    if (status.uptime_s < uptime) [seen, events] = [0, []]; // it has begun anew, and counts anew
    uptime = status.uptime_s;
    panels.summary(status);
    panels.facts(status);
    const is = status.pipelines.find((p) => p.name === pipeline) ?? status.pipelines[0];
    if (is) {
      if (is.name !== pipeline) await choose(is.name, status);
      show(is, status);
      if (++beats % 5 === 0) await fetchEditable();
    }
    await fetchEvents();
  } catch (e) {
    if (e.status === 401) return start();
    if (e.status !== undefined) $("summary").textContent = e.message + ".";
    else throw e;
  } finally {
    clearTimeout(timer);
    if (!$("board").hidden) timer = setTimeout(refresh, beat);
  }
}

function show(is, status) {
  panels.tabs(status.pipelines, pipeline, (name) => {
    if (name === pipeline || editor.dirty && !confirm("Leave what you have drawn, and not saved?")) return;
    choose(name, status).catch((e) => say(e.message)).then(refresh);
  });
  panels.privacy(is);
  panels.numbers(is);
  panels.tried(is);
  view.open(is.name, is.aspect);
}

async function choose(name) {
  pipeline = name;
  await fetchEditable(true);
}

// What a person may be changing just now is left alone.
async function fetchEditable(force) {
  const name = pipeline;
  const [list, regions] = await Promise.all([get(of(name, "settings")), get(of(name, "regions"))]);
  if (name !== pipeline) return;
  settings.show(name, list.settings);
  if (force || !editor.dirty) editor.show(regions, force);
}

async function fetchEvents() {
  const { events: list } = await get("events?after=" + seen);
  if (list.length) {
    seen = list.at(-1).seq;
    events = [...list.reverse(), ...events].slice(0, most);
  }
  panels.events(events);
}

start();
