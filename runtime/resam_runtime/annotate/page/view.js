// The canvas: pieces of the scene at the right zoom level, masks, points, boxes; zoom, pan, clicks and drags.
//
// Scene coordinates have pixel centres at integers, so the scene reaches from -0.5 to width - 0.5.

const AT_ONCE = 4;
const KEPT_PIECES = 400;
const HIT_PX = 9;
const CLICK_PX = 4; // nearer than that a click is at a point; farther it adds one, so that small objects get three
const DRAG_PX = 4;
const MAX_SCALE = 40;

export class View {
  // on: {click([x, y], event), grab(hit), drop(hit, [x, y]), box([x0, y0, x1, y1], hit or null), hover([x, y] or null),
  // moved(), pieceAddress(level, c, r)}; a hit is {instance, point, label} or, of a box, {instance, corner}
  constructor(canvas, on) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.on = on;
    this.scene = null;
    this.pieces = new Map();
    this.loading = new Set();
    this.drawing = { instances: [], proposals: [], masksShown: true, pointsShown: true };
    this.panning = false; // space is held
    this.boxing = false; // every drag draws a box
    this.gesture = null;
    this.hit = null;
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => on.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  // scene: {width, height, piece, levels} or null
  show(scene) {
    this.scene = scene;
    this.pieces.clear();
    this.loading.clear();
    this.cancel();
    this.hit = null;
    this.fit();
  }

  // drawing: {instances: [{points, labels, box, colour, current, mask, title}], selected: [x, y], "box" or null,
  // proposals: [{box, mask, colour, focused, title}], masksShown, pointsShown}
  paint(drawing) {
    this.drawing = drawing;
    this.redraw();
  }

  get size() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  get centre() {
    const [width, height] = this.size;
    return this.toScene([width / 2, height / 2]);
  }

  toScene([x, y]) {
    return [(x - this.left) / this.scale - 0.5, (y - this.top) / this.scale - 0.5];
  }

  toScreen([x, y]) {
    return [(x + 0.5) * this.scale + this.left, (y + 0.5) * this.scale + this.top];
  }

  fitScale() {
    const [width, height] = this.size;
    return Math.min((width - 24) / this.scene.width, (height - 24) / this.scene.height, MAX_SCALE / 2);
  }

  fit() {
    if (!this.scene) return this.redraw();
    const [width, height] = this.size;
    this.scale = Math.max(this.fitScale(), 1e-4);
    this.left = (width - this.scene.width * this.scale) / 2;
    this.top = (height - this.scene.height * this.scale) / 2;
    this.fitted = true;
    return this.redraw();
  }

  zoom(factor, at = this.size.map((side) => side / 2)) {
    if (!this.scene) return;
    const before = this.toScene(at);
    this.scale = Math.min(MAX_SCALE, Math.max(this.fitScale() / 2, this.scale * factor));
    this.left = at[0] - (before[0] + 0.5) * this.scale;
    this.top = at[1] - (before[1] + 0.5) * this.scale;
    this.moved();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.moved();
  }

  // Brings a point into view if it is not.
  reveal(point) {
    const [x, y] = this.toScreen(point);
    const [width, height] = this.size;
    if (x < 30 || y < 30 || x > width - 30 || y > height - 30) this.pan(width / 2 - x, height / 2 - y);
  }

  moved() {
    this.fitted = false;
    const [width, height] = this.size;
    const keep = 60; // never lose the scene out of sight
    this.left = Math.min(width - keep, Math.max(keep - this.scene.width * this.scale, this.left));
    this.top = Math.min(height - keep, Math.max(keep - this.scene.height * this.scale, this.top));
    this.on.moved();
    this.redraw();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.fitted) this.fit();
    this.draw(); // at once: a resized canvas is blank
  }

  // --- pointer ---------------------------------------------------------------------------------------------------

  wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 300 : 1;
    const strength = event.ctrlKey ? 0.01 : 0.0016; // a pinch on a touch pad comes as a small wheel with ctrl
    this.zoom(Math.exp(-event.deltaY * unit * strength), [event.offsetX, event.offsetY]);
  }

  down(event) {
    if (!this.scene || this.gesture) return;
    this.canvas.setPointerCapture(event.pointerId);
    const at = [event.offsetX, event.offsetY];
    const pan = event.button === 1 || (event.button === 0 && this.panning);
    const box = event.button === 0 && !pan && (this.boxing || event.shiftKey);
    const hit = event.button === 0 && !pan ? this.cornerTest(at) ?? (box ? null : this.hitTest(at)) : null;
    this.gesture = { button: event.button, from: at, last: at, hit, pan, box: box && !hit, dragged: false };
    event.preventDefault();
  }

  move(event) {
    if (!this.scene) return;
    const at = [event.offsetX, event.offsetY];
    this.on.hover(this.toScene(at));
    const gesture = this.gesture;
    if (!gesture) {
      this.hit = this.hitTest(at);
      this.cursor();
      return;
    }
    if (!gesture.dragged && Math.hypot(at[0] - gesture.from[0], at[1] - gesture.from[1]) > DRAG_PX) {
      gesture.dragged = true;
      if (gesture.hit) this.on.grab(gesture.hit);
    }
    if (gesture.dragged && (gesture.hit || gesture.box)) {
      if (gesture.hit) gesture.hit.moved = this.toScene(at);
      gesture.last = at;
      this.redraw();
    } else if (gesture.pan || (gesture.dragged && gesture.button === 0)) {
      this.pan(at[0] - gesture.last[0], at[1] - gesture.last[1]);
    }
    gesture.last = at;
    this.cursor();
  }

  up(event) {
    const gesture = this.gesture;
    if (!gesture || event.button !== gesture.button) return;
    this.gesture = null;
    if (gesture.hit && gesture.dragged) {
      if (gesture.hit.point) this.on.drop(gesture.hit, this.toScene(gesture.last));
      else this.on.box(this.resized(gesture.hit), gesture.hit);
    } else if (gesture.hit && (gesture.hit.distance ?? 0) <= CLICK_PX) {
      this.on.grab(gesture.hit);
    } else if (gesture.box && gesture.dragged) {
      this.on.box(this.boxOf(this.toScene(gesture.from), this.toScene(gesture.last)), null);
    } else if (!gesture.dragged && !gesture.pan && gesture.button !== 1) {
      this.on.click(this.toScene([event.offsetX, event.offsetY]), event);
    }
    this.cursor();
    this.redraw();
  }

  cancel() {
    this.gesture = null;
    this.cursor();
  }

  cursor() {
    const dragging = this.gesture?.dragged && !this.gesture.box && (this.gesture.hit || this.gesture.button !== 2);
    const kind = dragging || this.gesture?.pan ? "grabbing" : this.panning ? "grab" : this.hit ? "pointer" : "crosshair";
    this.canvas.style.cursor = kind;
  }

  // The point under the pointer, those of the current instance first: {instance, point, label} or null.
  hitTest([x, y]) {
    let best = null;
    let nearest = HIT_PX;
    if (!this.drawing.pointsShown) return null;
    for (const instance of this.drawing.instances) {
      instance.points.forEach((point, i) => {
        const [px, py] = this.toScreen(point);
        const distance = Math.hypot(px - x, py - y) - (instance.current ? 2 : 0);
        if (distance < nearest) {
          nearest = distance;
          best = { instance, point, label: instance.labels[i], distance: Math.hypot(px - x, py - y) };
        }
      });
    }
    return best;
  }

  // The corner of the current instance's box under the pointer: {instance, corner} or null.
  cornerTest([x, y]) {
    if (!this.drawing.pointsShown) return null;
    for (const instance of this.drawing.instances) {
      if (!instance.current || !instance.box) continue;
      const corner = corners(instance.box).findIndex((place) => {
        const [px, py] = this.toScreen(place);
        return Math.hypot(px - x, py - y) < HIT_PX;
      });
      if (corner >= 0) return { instance, corner };
    }
    return null;
  }

  // Two places on edges -> the box of whole or part pixels between them, outer pixels included, inside the scene.
  boxOf([ax, ay], [bx, by]) {
    const side = (a, b, size) => {
      const low = Math.min(size - 1, Math.max(0, Math.min(a, b) + 0.5));
      const high = Math.min(size - 1, Math.max(0, Math.max(a, b) - 0.5));
      const round = (value) => Math.round(value * 100) / 100;
      return low <= high ? [round(low), round(high)] : [Math.round((low + high) / 2), Math.round((low + high) / 2)];
    };
    const [x0, x1] = side(ax, bx, this.scene.width);
    const [y0, y1] = side(ay, by, this.scene.height);
    return [x0, y0, x1, y1];
  }

  resized({ instance, corner, moved }) {
    return moved ? this.boxOf(moved, corners(instance.box)[(corner + 2) % 4]) : instance.box;
  }

  // --- drawing ---------------------------------------------------------------------------------------------------

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    const { context, canvas } = this;
    const ratio = canvas.width / Math.max(1, canvas.clientWidth);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.scene || !canvas.width || !canvas.height) return;
    this.drawPieces(ratio);
    if (this.drawing.masksShown) this.drawMasks(ratio);
    this.drawProposals(ratio);
    if (this.drawing.pointsShown) this.drawBoxes(ratio);
    if (this.drawing.pointsShown) this.drawPoints(ratio);
  }

  drawPieces(ratio) {
    const { piece, levels, width, height } = this.scene;
    const wanted = [];
    const target = Math.min(levels - 1, Math.max(0, Math.floor(Math.log2(1 / (this.scale * ratio)) + 1e-6)));
    const [x0, y0] = this.toScene([0, 0]);
    const [x1, y1] = this.toScene(this.size);
    this.context.imageSmoothingEnabled = this.scale * ratio < 2; // beyond, pixels are what one wants to see
    this.context.imageSmoothingQuality = "high";
    for (let level = levels - 1; level >= target; level -= 1) {
      const step = piece << level;
      const last = [Math.ceil(width / step) - 1, Math.ceil(height / step) - 1];
      for (let row = Math.max(0, Math.floor(y0 / step)); row <= Math.min(last[1], Math.floor((y1 + 0.5) / step)); row += 1) {
        for (let c = Math.max(0, Math.floor(x0 / step)); c <= Math.min(last[0], Math.floor((x1 + 0.5) / step)); c += 1) {
          const key = `${level}/${c}/${row}`;
          const image = this.pieces.get(key);
          if (image?.complete) {
            const [left, top] = this.toScreen([c * step - 0.5, row * step - 0.5]).map((v) => Math.round(v * ratio));
            const corner = [Math.min(width, (c + 1) * step) - 0.5, Math.min(height, (row + 1) * step) - 0.5];
            const [right, bottom] = this.toScreen(corner).map((v) => Math.round(v * ratio));
            this.context.drawImage(image, left, top, right - left, bottom - top);
            this.pieces.delete(key); // the most recently used are last
            this.pieces.set(key, image);
          } else if (level === target || level === levels - 1) wanted.push([key, level, c, row]);
        }
      }
    }
    for (const [key, level, c, row] of wanted) this.load(key, level, c, row);
  }

  load(key, level, column, row) {
    if (this.loading.size >= AT_ONCE || this.loading.has(key)) return; // what is still wanted later, asks again
    const { scene } = this;
    const image = new Image();
    this.loading.add(key);
    const settled = (whole) => {
      if (this.scene !== scene) return;
      this.loading.delete(key);
      if (whole) this.pieces.set(key, image);
      for (const oldest of this.pieces.keys()) {
        if (this.pieces.size <= KEPT_PIECES) break;
        this.pieces.delete(oldest);
      }
      this.redraw();
    };
    image.onload = () => settled(true);
    image.onerror = () => setTimeout(() => settled(false), 1000);
    image.src = this.on.pieceAddress(level, column, row);
  }

  drawMasks(ratio) {
    const { context } = this;
    const [x0, y0] = this.toScene([0, 0]);
    const [x1, y1] = this.toScene(this.size);
    const unit = this.scale * ratio;
    context.setTransform(unit, 0, 0, unit, (this.left + 0.5 * this.scale) * ratio, (this.top + 0.5 * this.scale) * ratio);
    context.lineJoin = "round";
    for (const { mask, colour, current } of this.drawing.instances) {
      if (!mask?.path || mask.box[0] > x1 || mask.box[1] > y1 || mask.box[2] < x0 || mask.box[3] < y0) continue;
      context.globalAlpha = current ? 0.42 : 0.26;
      context.fillStyle = colour;
      context.fill(mask.path, "evenodd");
      context.globalAlpha = current ? 1 : 0.85;
      context.strokeStyle = colour;
      context.lineWidth = (current ? 2.2 : 1.3) / this.scale;
      context.stroke(mask.path);
    }
    context.globalAlpha = 1;
  }

  drawProposals(ratio) {
    const { context } = this;
    const unit = this.scale * ratio;
    for (const { box, mask, colour, focused, title } of this.drawing.proposals) {
      context.setTransform(unit, 0, 0, unit, (this.left + 0.5 * this.scale) * ratio, (this.top + 0.5 * this.scale) * ratio);
      const path = mask.empty ? new Path2D() : mask.path;
      if (mask.empty) path.rect(box[0] - 0.5, box[1] - 0.5, box[2] - box[0] + 1, box[3] - box[1] + 1);
      context.globalAlpha = focused ? 0.3 : 0.1;
      context.fillStyle = colour;
      context.fill(path, "evenodd");
      context.globalAlpha = 1;
      for (const [style, width] of [["rgb(0 0 0 / 55%)", focused ? 4.5 : 3], [colour, focused ? 2.6 : 1.5]]) {
        context.setLineDash([6 / this.scale, 4 / this.scale]);
        context.strokeStyle = style;
        context.lineWidth = width / this.scale;
        context.stroke(path);
      }
      context.setLineDash([]);
      if (!focused) continue;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.drawTitle(this.toScreen([box[2], box[1]]), { title, colour });
    }
  }

  drawBoxes(ratio) {
    const { context, gesture } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const instance of this.drawing.instances) {
      if (!instance.box) continue;
      const held = gesture?.dragged && gesture.hit?.corner !== undefined && gesture.hit.instance.handle === instance.handle;
      const box = held ? this.resized(gesture.hit) : instance.box;
      const selected = instance.current && this.drawing.selected === "box";
      this.drawBox(box, instance.colour, instance.current ? 2.2 : 1.4, selected);
      if (!instance.current) continue;
      for (const place of corners(box)) {
        const [x, y] = this.toScreen(place);
        context.fillStyle = "#fff";
        context.fillRect(x - 4, y - 4, 8, 8);
        context.strokeStyle = instance.colour;
        context.lineWidth = 1.5;
        context.strokeRect(x - 4, y - 4, 8, 8);
      }
      if (!instance.points.length) this.drawTitle(this.toScreen([box[2], box[1]]), instance);
    }
    if (gesture?.box && gesture.dragged) {
      this.drawBox(this.boxOf(this.toScene(gesture.from), this.toScene(gesture.last)), "#fff", 1.6, false);
    }
  }

  drawBox(box, colour, width, selected) {
    const { context } = this;
    const [[left, top], , [right, bottom]] = corners(box).map((place) => this.toScreen(place));
    for (const [style, line] of [[selected ? "#fff" : "rgb(0 0 0 / 55%)", width + 2], [colour, width]]) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }

  drawPoints(ratio) {
    const { context } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const [width, height] = this.size;
    const ordered = [...this.drawing.instances].sort((a, b) => a.current - b.current);
    const held = this.gesture?.dragged ? this.gesture.hit : null;
    for (const instance of ordered) {
      const at = instance.points.map((point) => this.toScreen(held?.point === point ? held.moved : point));
      if (at.length > 1) {
        context.globalAlpha = instance.current ? 0.9 : 0.5;
        context.strokeStyle = instance.colour;
        context.lineWidth = 1.2;
        context.setLineDash([3, 3]);
        context.beginPath();
        for (const other of at.slice(1)) {
          context.moveTo(...at[0]);
          context.lineTo(...other);
        }
        context.stroke();
        context.setLineDash([]);
        context.globalAlpha = 1;
      }
      at.forEach(([x, y], i) => {
        if (x < -20 || y < -20 || x > width + 20 || y > height + 20) return;
        const selected = instance.current && this.drawing.selected === instance.points[i];
        this.drawPoint(x, y, instance.labels[i], instance.colour, instance.current, selected);
      });
      if (instance.current && at.length) this.drawTitle(at[0], instance);
    }
  }

  // Positive: a filled disc. Negative: a white one with a bar in it. Shape as well as colour tells them apart.
  drawPoint(x, y, label, colour, current, selected) {
    const { context } = this;
    const radius = current ? 6 : 4.5;
    const ring = (r, style, line) => {
      context.beginPath();
      context.arc(x, y, r, 0, 2 * Math.PI);
      context.strokeStyle = style;
      context.lineWidth = line;
      context.stroke();
    };
    ring(radius + 1.5, "rgb(0 0 0 / 65%)", 3);
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = label ? colour : "#fff";
    context.fill();
    ring(radius, label ? "#fff" : colour, 1.8);
    if (!label) {
      context.fillStyle = "#c4162a";
      context.fillRect(x - radius + 2, y - 1, 2 * radius - 4, 2);
    }
    if (selected) ring(radius + 5, "#fff", 1.5);
  }

  drawTitle([x, y], { title, colour }) {
    const { context } = this;
    context.font = "600 11px system-ui, sans-serif";
    const width = context.measureText(title).width + 10;
    context.fillStyle = "rgb(10 14 20 / 78%)";
    context.beginPath();
    context.roundRect(x + 11, y - 22, width, 17, 4);
    context.fill();
    context.fillStyle = colour;
    context.fillText(title, x + 16, y - 9.5);
  }
}

// Where the corners of a box are, on the edges of its outer pixels: opposite ones are two apart.
function corners([x0, y0, x1, y1]) {
  return [
    [x0 - 0.5, y0 - 0.5],
    [x1 + 0.5, y0 - 0.5],
    [x1 + 0.5, y1 + 0.5],
    [x0 - 0.5, y1 + 0.5],
  ];
}
