// The page: which scene is shown, what is selected, and what clicks and keys do.

import { Classes } from "./classes.js";
import { Client } from "./client.js";
import { Masks } from "./masks.js";
import { $, ImageList, InstanceList, applyTheme, colour, fillHelp, showMessage, toast } from "./panels.js";
import { ScenePoints, message } from "./points.js";
import { Proposals } from "./proposals.js";
import { View } from "./view.js";

const known = new Map(); // scene name -> ScenePoints, with its undo
let index = -1;
let scene = null; // the server's answer: size, pieces, or a problem
let points = null;
let current = null; // handle of the instance that the next click adds to
let selected = null; // a point of it, one of the arrays in instance.points, or "box"
let single = localStorage.getItem("single") === "true";
let masksShown = true;
let pointsShown = true;
let proposing = true;
let order = []; // indices of the scenes as the list shows them
let ranking = false; // by uncertainty
let opening = 0;

const client = new Client({
  status: (kind, text) => {
    const unsaved = kind === "unsaved";
    $("saved").dataset.kind = kind;
    $("saved").textContent = unsaved ? "Not saved" : text;
    // the reason floats over the image: a header that grew would move it under the pointer
    $("unsaved").hidden = !unsaved;
    $("unsaved").textContent = unsaved ? text : "";
  },
  changes: (changed, named, version) => {
    classes.take(named, version);
    for (const { index: at, version, ...summary } of changed) {
      Object.assign(client.folder.scenes[at], summary);
      images.update(at, client.folder.scenes[at]);
      if (at === index && version > points.version) points.version = -1;
    }
    images.progress(client.folder.scenes);
    if (points.version < 0) reread();
  },
  restarted: (folder) => {
    const { name } = points;
    known.forEach((old) => {
      old.version = -1;
    });
    fill(folder);
    open(Math.max(0, folder.scenes.findIndex((entry) => entry.name === name)), { stay: true });
  },
  refused: (entry, problem) => {
    toast(`Not done: ${problem.message}`);
    entry.points.version = -1;
    if (entry.points === points && !client.pending(points)) reread();
  },
  saved: (entry, answer) => {
    const { points: changed, handle } = entry;
    if (handle && answer.instance !== null) changed.acknowledge(handle, answer.instance);
    // a version in between was made in another window; read all once our own operations are through
    changed.version = answer.previous === changed.version ? answer.version : -1;
    const at = client.folder.scenes.findIndex((other) => other.name === changed.name);
    Object.assign(client.folder.scenes[at], { instances: answer.instances, done: answer.done });
    images.update(at, client.folder.scenes[at]);
    images.progress(client.folder.scenes);
    if (changed !== points || client.pending(points)) return;
    if (points.version < 0) reread();
    else refresh();
  },
});

const images = new ImageList((at) => open(at));
const list = new InstanceList(
  (handle) => {
    select(handle);
    reveal(points.find(handle));
  },
  (handle) => perform({ act: "delete", handle }),
);
const masks = new Masks(client, {
  scene: () => (scene?.width && masksShown ? { index, points, current, centre: view.centre } : null),
  changed: () => refresh(),
  status: (text) => {
    $("engine").textContent = text;
  },
});
const classes = new Classes(client, {
  // The current instance and the next ones are of a class; asked for again, of none.
  chosen: (id) => {
    const instance = points.find(current);
    const category = id === (instance ? instance.category : classes.current) ? null : id;
    classes.set(category);
    if (instance) perform({ act: "class", handle: current, category });
    else refresh();
  },
  changed: () => points && refresh(),
});
const proposals = new Proposals(client, {
  scene: () => {
    if (!scene?.width || !proposing) return null;
    const [x0, y0] = view.toScene([0, 0]);
    const [x1, y1] = view.toScene(view.size);
    const clamp = (value, side) => Math.min(side, Math.max(0, value));
    const seen = [clamp(x0, scene.width), clamp(y0, scene.height), clamp(x1, scene.width), clamp(y1, scene.height)];
    return { index, points, view: seen };
  },
  changed: () => refresh(),
  status: (text) => {
    $("engine").textContent = text;
  },
});
const view = new View($("canvas"), {
  pieceAddress: (level, column, row) => client.address(`piece/${index}/${level}/${column}/${row}`),
  click: (at, event) => click(at, event),
  grab: ({ instance, point }) => select(instance.handle, point ?? "box"),
  drop: ({ instance, point, label }, to) => perform({ act: "move", handle: instance.handle, point, label, to: inside(to) }),
  box: (box, hit) => drawn(box, hit),
  hover: (at) => {
    const [x, y] = at ? at.map(Math.round) : [-1, -1];
    const within = scene?.width && x >= 0 && y >= 0 && x < scene.width && y < scene.height;
    $("cursor").textContent = within ? `${x}, ${y}` : "";
    const under = at && proposing ? proposals.at(shown, at) : null;
    if (under && under !== proposals.focus) {
      proposals.point(under);
      refresh();
    }
  },
  moved: () => {
    $("zoom").textContent = `${Math.round(view.scale * 100)}%`;
    masks.ask();
    proposals.ask();
  },
});
let shown = []; // proposals that nobody has decided on

// --- scenes ------------------------------------------------------------------------------------------------------

async function open(at, { stay = false } = {}) {
  const { scenes } = client.folder;
  if (at < 0 || at >= scenes.length) {
    toast(at < 0 ? "This is the first image" : "This is the last image");
    return;
  }
  opening += 1;
  const ticket = opening;
  const { name } = scenes[at];
  const again = stay && points?.name === name && scene?.width;
  if (!known.has(name)) known.set(name, new ScenePoints(name));
  index = at;
  points = known.get(name);
  if (!again) {
    scene = null;
    current = null;
    selected = null;
    view.show(null);
    showMessage("");
  }
  history.replaceState(null, "", `#${at + 1}`);
  document.title = `${name} · resam-annotate`;
  $("name").textContent = name;
  $("name").title = name;
  $("place").textContent = `${at + 1} of ${scenes.length}`;
  images.current(at);
  refresh();
  if (!again) $("hint").textContent = "Loading…";
  try {
    const answer = await client.get(`scene/${at}`);
    if (ticket !== opening) return;
    take(answer);
    scene = answer;
    scenes[at].problem = scene.problem;
    images.update(at, scenes[at]);
    if (scene.problem) showMessage("This image cannot be annotated", `${scene.problem}. The other images are not affected.`);
    else {
      $("place").textContent = `${at + 1} of ${scenes.length} · ${scene.width} × ${scene.height}`;
      if (!again) view.show(scene);
      view.redraw();
      proposals.ask();
      $("zoom").textContent = `${Math.round(view.scale * 100)}%`;
      prefetch(at + 1);
    }
  } catch (problem) {
    if (ticket === opening) showMessage("This image could not be loaded", `${problem.message}. Open it again from the list.`);
  }
  refresh();
}

// The next image is read from disk while this one is looked at.
function prefetch(at) {
  if (at < client.folder.scenes.length) client.get(`scene/${at}`).catch(() => {});
}

async function reread() {
  const wanted = points;
  const { edits } = wanted;
  try {
    const answer = await client.get(`scene/${index}`);
    if (wanted !== points || client.pending(points) || wanted.edits !== edits) return; // newer news is on its way
    take(answer);
    refresh();
  } catch {
    wanted.version = -1; // the next poll tries again
  }
}

function take(answer) {
  if (client.pending(points) || answer.version < points.version) return;
  const at = selected && points.find(current)?.points.indexOf(selected);
  points.replace(answer);
  if (selected && selected !== "box") selected = points.find(current)?.points[at] ?? null;
}

function fill(folder) {
  classes.version = -1;
  classes.take(folder.classes, folder.version);
  order = folder.scenes.map((_, at) => at);
  images.fill(folder.scenes);
  images.progress(folder.scenes);
}

// The scene so many rows below this one.
function away(by) {
  return order[order.indexOf(index) + by] ?? (by < 0 ? -1 : order.length);
}

// Asks for one scene after the other, and shows those first of which the engine is least sure.
async function rank() {
  ranking = !ranking;
  $("uncertain").setAttribute("aria-pressed", ranking);
  const { scenes } = client.folder;
  const arrange = () => {
    const key = (at) => (scenes[at].done ? -2 : (scenes[at].uncertainty ?? -1));
    order = scenes.map((_, at) => at);
    if (ranking) order.sort((a, b) => key(b) - key(a));
    images.order(order);
  };
  arrange();
  const session = client.folder.session;
  for (let at = 0; at < scenes.length; at += 1) {
    if (!ranking || session !== client.folder.session) return;
    if (scenes[at].done || scenes[at].problem || scenes[at].uncertainty !== undefined) continue;
    try {
      scenes[at].uncertainty = (await client.get(`uncertainty/${at}`)).uncertainty;
    } catch (problem) {
      if (problem.status === 0 || problem.status === 410) return;
      scenes[at].uncertainty = 0; // it cannot be read: nothing is to be learnt from it
    }
    images.update(at, scenes[at]);
    if (ranking) arrange();
  }
  if (ranking && scenes.length) toast("Least certain images first");
}

function nextOpen() {
  const { scenes } = client.folder;
  const from = order.indexOf(index);
  for (let step = 1; step < scenes.length; step += 1) {
    const at = order[(from + step) % scenes.length];
    if (!scenes[at].done && !scenes[at].problem) {
      open(at);
      return;
    }
  }
  toast("All images are done");
}

// --- editing -----------------------------------------------------------------------------------------------------

function perform(operation, onto = points.undo) {
  const edited = points;
  if (!scene?.width) return false;
  const inverse = edited.apply(operation);
  if (!inverse) return false;
  onto.push(inverse);
  if (onto === edited.undo) edited.redo.length = 0;
  client.send({ name: edited.name, points: edited, handle: operation.handle, operation: () => message(operation) });
  if (operation.act === "delete" || !edited.find(current)) {
    if (operation.handle === current) current = null;
    selected = null;
  }
  if (["restore", "add", "move", "box"].includes(operation.act) && edited.find(operation.handle)) {
    select(operation.handle, null);
    if (operation.act === "move") selected = edited.find(current).points.find((point) => point === operation.to);
  }
  client.folder.scenes[index].instances = edited.instances.length;
  client.folder.scenes[index].done = edited.done;
  images.update(index, client.folder.scenes[index]);
  images.progress(client.folder.scenes);
  refresh();
  return true;
}

function travel(from, to) {
  const operation = from.pop();
  if (!operation) return;
  const redo = [...points.redo]; // perform() empties it for anything new
  if (!perform(operation, to)) toast("That was changed in another window; nothing to undo");
  else if (to === points.undo) points.redo.splice(0, points.redo.length, ...redo);
}

function click(at, event) {
  const [x, y] = at;
  if (!scene?.width || x < -0.5 || y < -0.5 || x >= scene.width - 0.5 || y >= scene.height - 0.5) return;
  const negative = event.button === 2 || event.altKey || event.ctrlKey;
  if (negative && !points.find(current)) {
    toast("First click an object; a right-click then marks what is not part of it");
    return;
  }
  const fresh = !negative && (single || event.shiftKey || !points.find(current));
  const handle = fresh ? { id: null } : current;
  const category = fresh ? classes.current : undefined;
  perform({ act: "add", handle, point: inside(at), label: negative ? 0 : 1, category });
}

// A box was dragged: a corner of one (hit), around the current instance, else of a new one.
function drawn(box, hit) {
  if (!scene?.width) return;
  if (hit) {
    perform({ act: "box", handle: hit.instance.handle, box });
    return;
  }
  const chosen = points.find(current);
  const holds = ([x, y], i) => !chosen.labels[i] || (x >= box[0] - 0.5 && y >= box[1] - 0.5 && x <= box[2] + 0.5 && y <= box[3] + 0.5);
  const own = chosen && !chosen.box && chosen.points.every(holds);
  perform({ act: "box", handle: own ? current : { id: null }, box, category: own ? undefined : classes.current });
}

// What the engine proposed is an instance, or nothing.
async function decide(accepted) {
  const one = proposals.focus;
  if (!one || !proposing) {
    toast(proposals.there ? "No proposals here" : "No proposals without an engine: start with --engine");
    return;
  }
  let category = null;
  if (accepted && one.class?.name) {
    const decided = points;
    category = classes.list.find((other) => other.name === one.class.name)?.id ?? null;
    if (category === null) {
      proposals.held.add(one); // the next key is for the next one
      refresh();
      try {
        category = await classes.named(one.class.name);
      } catch (problem) {
        toast(`Not done: ${problem.message}`);
        return;
      } finally {
        proposals.held.delete(one);
        refresh();
      }
      if (decided !== points) return; // another scene is shown
    }
  }
  if (accepted) perform({ act: "accept", handle: { id: null }, point: one.point, label: 1, box: one.box, category });
  else perform({ act: "reject", box: one.box });
  if (proposals.focus) view.reveal(proposals.focus.point);
}

function reveal(instance) {
  const place = instance?.points[0] ?? instance?.box?.slice(0, 2);
  if (place) view.reveal(place);
}

function inside([x, y]) {
  const clamp = (value, side) => Math.min(side - 0.51, Math.max(-0.5, Math.round(value * 100) / 100));
  return [clamp(x, scene.width), clamp(y, scene.height)];
}

function select(handle, point = null) {
  current = handle;
  selected = point;
  refresh();
}

function step(by) {
  const { instances } = points;
  if (!instances.length) return;
  const at = instances.findIndex((instance) => instance.handle === current);
  const next = instances[at < 0 ? (by > 0 ? 0 : instances.length - 1) : (at + by + instances.length) % instances.length];
  select(next.handle);
  reveal(next);
}

function removeSelected() {
  const instance = points.find(current);
  if (!instance) return;
  const at = instance.points.indexOf(selected);
  if (selected === "box" && instance.box) perform({ act: "box", handle: current, box: null });
  else if (at >= 0) perform({ act: "remove", handle: current, point: selected, label: instance.labels[at] });
  else removeCurrent();
}

function removeCurrent() {
  const instance = points.find(current);
  if (instance && perform({ act: "delete", handle: current })) toast("Instance deleted; undo with Ctrl-Z");
}

function toggleDone() {
  const done = !points.done;
  if (perform({ act: "done", done }) && done) nextOpen();
}

// --- what is seen ------------------------------------------------------------------------------------------------

function refresh() {
  const entries = points.instances.map((instance, place) => ({
    ...instance,
    colour: classes.colour(instance.category) ?? colour(instance.handle, place),
    className: classes.name(instance.category),
    current: instance.handle === current,
    mask: masks.of(instance),
    title: `${instance.handle.id ?? "…"}`,
  }));
  shown = proposing && scene?.width ? proposals.open(index, points, classes) : [];
  const dashed = shown.map((one) => {
    const known = classes.list.find((other) => other.name === one.class?.name);
    const focused = one === proposals.focus;
    const title = `${one.class?.name ?? ""} ${Math.round(100 * one.score)}%`.trim();
    return { ...one, focused, title, colour: (known && classes.colour(known.id)) ?? "hsl(48 96% 60%)" };
  });
  view.paint({ instances: entries, proposals: dashed, selected, masksShown, pointsShown });
  const ready = Boolean(scene?.width);
  list.fill(entries, ready);
  $("undo").disabled = !ready || !points.undo.length;
  $("redo").disabled = !ready || !points.redo.length;
  $("done").disabled = !ready;
  $("new").disabled = !ready;
  $("done").setAttribute("aria-pressed", points.done);
  $("done").textContent = points.done ? "✓ Done" : "Done";
  $("single").setAttribute("aria-pressed", single);
  $("masks").setAttribute("aria-pressed", masksShown);
  $("boxing").setAttribute("aria-pressed", view.boxing);
  $("proposing").setAttribute("aria-pressed", proposing);
  const chosen = points.find(current);
  $("hint").textContent = !ready
    ? ""
    : view.boxing
      ? "Drag a box around an object · hold Space to move the image · B to stop"
    : single
      ? "Every click starts a new instance · right-click: not part of the last one · O to stop"
      : shown.length && !chosen
        ? `${shown.length} proposed, dashed · A accepts the highlighted one, R rejects it · Tab: the next`
      : chosen
        ? `Click adds to instance ${chosen.handle.id ?? ""} · right-click: not part of it · N for the next object`
        : "Click an object to start a new instance · ? shows all keys";
  masks.ask();
}

function begin() {
  select(null);
  toast("The next click starts a new instance");
}

const ACTIONS = {
  n: begin,
  Enter: begin,
  a: () => decide(true),
  r: () => decide(false),
  b: () => {
    view.boxing = !view.boxing;
    refresh();
  },
  p: () => {
    proposing = !proposing;
    refresh();
    proposals.ask();
  },
  u: () => proposals.there && rank(),
  Tab: () => {
    const one = proposals.next(shown, 1);
    if (one) view.reveal(one.point);
    refresh();
  },
  o: () => {
    single = !single;
    localStorage.setItem("single", single);
    refresh();
  },
  Escape: () => select(null),
  Delete: removeSelected,
  Backspace: removeSelected,
  x: removeCurrent,
  "[": () => step(-1),
  "]": () => step(1),
  ArrowRight: () => open(away(1)),
  j: () => open(away(1)),
  ArrowLeft: () => open(away(-1)),
  k: () => open(away(-1)),
  d: toggleDone,
  f: () => view.fit(),
  0: () => view.fit(),
  z: () => view.zoom(1 / view.scale),
  "+": () => view.zoom(1.4),
  "=": () => view.zoom(1.4),
  "-": () => view.zoom(1 / 1.4),
  m: () => {
    masksShown = !masksShown;
    refresh();
  },
  h: () => {
    pointsShown = !pointsShown;
    refresh();
  },
  t: () => applyTheme(1),
  "?": () => $("help").showModal(),
};

for (let number = 1; number <= 9; number += 1) ACTIONS[number] = () => classes.choose(number - 1);

const BUTTONS = {
  previous: "k", next: "j", single: "o", boxing: "b", proposing: "p", uncertain: "u", masks: "m", done: "d", new: "n",
  theme: "t", keys: "?", fit: "f", zoom: "z",
};

function wire() {
  for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => ACTIONS[key]());
  $("undo").addEventListener("click", () => travel(points.undo, points.redo));
  $("redo").addEventListener("click", () => travel(points.redo, points.undo));
  document.addEventListener("click", (event) => {
    // after a click with the mouse, keys belong to the image again
    if (event.detail && event.target.closest("button:not(#class-new)")) $("canvas").focus({ preventScroll: true });
  });
  addEventListener("keydown", (event) => {
    if ($("help").open) {
      if (event.key === "?") $("help").close();
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && !event.altKey && (key === "z" || key === "y")) {
      event.preventDefault();
      if (key === "y" || event.shiftKey) travel(points.redo, points.undo);
      else travel(points.undo, points.redo);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Tab" && (!shown.length || document.activeElement !== $("canvas"))) return; // walks the page as ever
    const button = event.target.closest?.("button");
    if (button && (key === " " || key === "Enter")) return;
    if (key === " ") view.panning = true;
    else if (!ACTIONS[key]) return;
    else if (scene?.width || ["ArrowRight", "ArrowLeft", "j", "k", "t", "u", "?"].includes(key)) ACTIONS[key]();
    view.cursor();
    event.preventDefault();
  });
  addEventListener("keyup", (event) => {
    if (event.key === " ") view.panning = false;
    view.cursor();
  });
  addEventListener("blur", () => {
    view.panning = false;
  });
  addEventListener("beforeunload", (event) => {
    if (client.busy) event.preventDefault();
  });
}

async function start() {
  applyTheme();
  fillHelp();
  const folder = await client.open();
  wire();
  $("folder").textContent = folder.folder;
  $("folder").title = `Points: ${folder.points}`;
  $("masks").hidden = !folder.engine;
  $("masks").title += folder.engine ? `\n${folder.engine}` : "";
  $("proposing").hidden = !folder.proposes;
  $("uncertain").hidden = !folder.proposes;
  fill(folder);
  const asked = Number(location.hash.slice(1)) - 1;
  const firstOpen = folder.scenes.findIndex((entry) => !entry.done);
  open(asked >= 0 && asked < folder.scenes.length ? asked : Math.max(0, firstOpen));
  $("canvas").focus({ preventScroll: true });
  client.poll();
}

start().catch((problem) => showMessage("The page could not be loaded", problem.message));
