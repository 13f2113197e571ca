// Mask previews: asks the engine for instances whose points it has not seen, few at a time, the current one first.

const DEBOUNCE_MS = 120;
const AT_ONCE = 8;

export class Masks {
  // client, and on: {scene(): {index, points, current, centre} or null, changed(), status(text)}
  constructor(client, on) {
    this.client = client;
    this.on = on;
    this.known = new Map(); // handle -> {signature, path, box, score, problem}
    this.timer = null;
    this.running = false;
  }

  clear() {
    this.known.clear();
    this.ask();
  }

  ask() {
    if (!this.client.folder?.engine) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), DEBOUNCE_MS);
  }

  of(instance) {
    return this.known.get(instance.handle);
  }

  async run() {
    if (this.running) return;
    this.running = true;
    try {
      for (;;) {
        const scene = this.on.scene();
        if (!scene || this.client.pending(scene.points)) break; // the answer to the last operation asks again
        const batch = this.next(scene);
        if (!batch.length) {
          this.on.status("");
          break;
        }
        this.on.status("Masks…");
        const asked = new Map(batch.map((instance) => [instance.handle.id, [instance.handle, signature(instance)]]));
        const answer = await this.client.post(`masks/${scene.index}`, { instances: [...asked.keys()] });
        if (this.on.scene()?.points !== scene.points) continue;
        for (const [handle, known] of asked.values()) this.known.set(handle, { signature: known });
        for (const { id, score, polygons, problem } of answer.masks) {
          const [handle, known] = asked.get(id);
          this.known.set(handle, { signature: known, score, problem, ...outline(polygons || []) });
        }
        this.on.changed();
      }
    } catch (problem) {
      this.on.status(`No masks: ${problem.message}`);
    }
    this.running = false;
  }

  next({ points, current, centre }) {
    const stale = points.instances.filter((i) => i.handle.id !== null && this.of(i)?.signature !== signature(i));
    const urgent = stale.find((instance) => instance.handle === current);
    if (urgent && this.of(urgent) !== undefined) return [urgent]; // a click waits for one mask, not for eight
    const far = ([x, y]) => (x - centre[0]) ** 2 + (y - centre[1]) ** 2;
    const key = (i) => (i === urgent ? -1 : i.points.length ? far(i.points[0]) : i.box ? far(i.box) : Infinity);
    return stale.sort((a, b) => key(a) - key(b)).slice(0, AT_ONCE);
  }
}

function signature({ points, labels, box }) {
  return `${points.join(";")}|${labels.join()}|${box ?? ""}`;
}

export function outline(polygons) {
  const path = new Path2D();
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (const ring of polygons.flat()) {
    for (let i = 0; i < ring.length; i += 2) {
      const [x, y] = [ring[i], ring[i + 1]];
      if (i) path.lineTo(x, y);
      else path.moveTo(x, y);
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
    }
    path.closePath();
  }
  return { path, box, empty: !polygons.length };
}
