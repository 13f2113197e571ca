// Talks to the server: operations go out one after the other and stay here until they are acknowledged.

const RETRY_MS = 1000;
const POLL_MS = 1000;

export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export class Client {
  // on: {status(kind, text), changes(scenes, classes, version), restarted(folder), refused(entry, problem), saved(entry, answer)}
  constructor(on) {
    this.on = on;
    this.folder = null;
    this.version = 0;
    this.queue = [];
    this.sending = false;
    this.window = crypto.getRandomValues(new Uint32Array(2)).join("-");
    this.count = 0;
  }

  get busy() {
    return this.queue.length > 0;
  }

  pending(points) {
    return this.queue.some((entry) => entry.points === points);
  }

  async open() {
    this.folder = await this.fetch("api/folder");
    this.version = this.folder.version;
    return this.folder;
  }

  address(path) {
    return `api/${this.folder.session}/${path}`;
  }

  get(path) {
    return this.fetch(this.address(path));
  }

  post(path, body) {
    return this.fetch(this.address(path), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  }

  async fetch(address, options) {
    let response;
    try {
      response = await fetch(address, { cache: "no-store", ...options });
    } catch {
      throw new Problem(0, "the server does not answer");
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Problem(response.status, answer.problem || response.statusText);
    return answer;
  }

  // entry: {name: of the scene, points: what it changes, operation(): the operation with the ids known by the time it is sent}
  send(entry) {
    entry.key = `${this.window}-${++this.count}`;
    this.queue.push(entry);
    this.pump();
  }

  async pump() {
    if (this.sending) return;
    this.sending = true;
    this.on.status("saving", "Saving…");
    while (this.queue.length) {
      const entry = this.queue[0];
      try {
        const index = this.folder.scenes.findIndex((scene) => scene.name === entry.name);
        if (index < 0) throw new Problem(404, `${entry.name} is no longer in the folder`);
        const { key, retry } = entry;
        const answer = await this.post(`scene/${index}`, { ...entry.operation(), key, retry });
        this.queue.shift();
        this.on.saved(entry, answer);
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        if (problem.status === 410) await this.restart();
        else if (problem.status === 0 || problem.status >= 500) {
          entry.retry = true; // it may have been done, and only the answer was lost
          this.on.status("unsaved", `Not saved: ${problem.message}. Keep this window open; it keeps trying.`);
          await pause(RETRY_MS);
        } else {
          this.queue.shift();
          this.on.refused(entry, problem);
        }
      }
    }
    this.sending = false;
    this.on.status("saved", "Saved");
  }

  async restart() {
    try {
      const folder = await this.fetch("api/folder");
      if (folder.points !== this.folder.points) throw new Problem(0, `${folder.points} is served here now`);
      this.folder = folder;
      this.version = folder.version;
      this.on.restarted(folder);
    } catch (problem) {
      // scenes of two folders may be called alike: what was clicked for one is not sent to the other
      const rest = this.busy ? `Not saved; keep this window open until ${this.folder.points} is.` : "Reload to see it.";
      this.on.status("unsaved", `${capital(problem.message)}. ${rest}`);
      await pause(RETRY_MS);
    }
  }

  async poll() {
    for (;;) {
      await pause(POLL_MS);
      try {
        const session = this.folder.session;
        const answer = await this.get(`changes/${this.version}`);
        if (session !== this.folder.session) continue;
        this.version = answer.version;
        this.on.changes(answer.scenes, answer.classes, answer.version);
        if (!this.busy) this.on.status("saved", "Saved");
      } catch (problem) {
        if (problem.status === 410) await this.restart();
        else if (!this.busy) this.on.status("unsaved", `${capital(problem.message)}.`);
      }
    }
  }
}

function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
