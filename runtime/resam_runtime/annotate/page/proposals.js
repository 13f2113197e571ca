// What the engine's prompter finds in the scene: shown dashed until somebody accepts or rejects it.

import { outline } from "./masks.js";

const DEBOUNCE_MS = 150;
const SAME = 0.5; // overlap of boxes from which two are of one object

export class Proposals {
  // client, and on: {scene(): {index, points, view: [x0, y0, x1, y1]} or null, changed(), status(text)}
  constructor(client, on) {
    this.client = client;
    this.on = on;
    this.found = new Map(); // index of the scene -> proposals
    this.focus = null; // the one that a key accepts or rejects
    this.pointed = false; // the pointer chose it: once it is decided, nothing is chosen that nobody looks at
    this.held = new Set(); // accepted, while the server is asked for their class
    this.timer = null;
    this.running = false;
  }

  get there() {
    return Boolean(this.client.folder?.proposes);
  }

  ask() {
    if (!this.there) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), DEBOUNCE_MS);
  }

  async run() {
    if (this.running) return;
    this.running = true;
    try {
      for (let left = 1; left; ) {
        const scene = this.on.scene();
        if (!scene) break;
        this.on.status("Looking…");
        const answer = await this.client.post(`proposals/${scene.index}`, { view: scene.view });
        this.found.set(
          scene.index,
          answer.found.map((one) => ({ ...one, mask: outline(one.polygons) })),
        );
        left = answer.left;
        this.on.changed();
      }
      this.on.status("");
    } catch (problem) {
      this.on.status(`No proposals: ${problem.message}`);
    }
    this.running = false;
  }

  // Those that nobody has decided on; the most uncertain first.
  open(index, points, classes) {
    const open = (this.found.get(index) ?? []).filter((one) => !this.held.has(one) && !isDecided(one, points, classes));
    open.sort((a, b) => b.uncertainty - a.uncertainty);
    this.focus = open.find((one) => same(one, this.focus)) ?? (this.pointed ? null : (open[0] ?? null));
    return open;
  }

  point(one) {
    this.focus = one;
    this.pointed = true;
  }

  // The smallest one whose box holds a place.
  at(open, [x, y]) {
    const holds = ({ box: [x0, y0, x1, y1] }) => x >= x0 - 0.5 && y >= y0 - 0.5 && x <= x1 + 0.5 && y <= y1 + 0.5;
    return open.filter(holds).sort((a, b) => area(a.box) - area(b.box))[0] ?? null;
  }

  next(open, by) {
    const at = open.findIndex((one) => same(one, this.focus));
    this.pointed = false;
    this.focus = open.length ? open[(at + by + open.length) % open.length] : null;
    return this.focus;
  }
}

function same(one, other) {
  return Boolean(other) && one.box.join() === other.box.join() && one.class?.id === other.class?.id;
}

function isDecided({ box, class: found }, points, classes) {
  if (points.rejected.some((other) => Array.isArray(other) && overlap(box, other) > SAME)) return true;
  return points.instances.some((instance) => {
    if (found && instance.category !== null && classes.name(instance.category) !== found.name) return false;
    if (instance.box) return overlap(box, instance.box) > SAME;
    return instance.points.some(([x, y], i) => instance.labels[i] && x >= box[0] && y >= box[1] && x <= box[2] && y <= box[3]);
  });
}

function area([x0, y0, x1, y1]) {
  return Math.max(0, x1 - x0 + 1) * Math.max(0, y1 - y0 + 1);
}

// Intersection over union.
function overlap(a, b) {
  const shared = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return shared / (area(a) + area(b) - shared);
}
