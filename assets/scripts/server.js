/* Talking to the server, and to the person's other windows. */
"use strict";

(() => {
  const REQUEST_TIMEOUT_MS = 20_000;

  /** The server answered, and said no. `status` 0 means that no answer came. */
  class Refused extends Error {
    constructor(status, message) {
      super(message);
      this.status = status;
    }
    get isUnreachable() {
      return this.status === 0;
    }
    get isSignedOut() {
      return this.status === 401;
    }
    get isFinal() {
      return this.status >= 400 && this.status < 500 && ![401, 408, 425, 429].includes(this.status);
    }
  }

  let clockSkewMs = 0;

  async function call(method, path, body) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), REQUEST_TIMEOUT_MS);
    try {
      const reply = await fetch(path, {
        method,
        headers: body === undefined ? {} : { "Content-Type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
        cache: "no-store",
        signal: abort.signal,
      });
      const serverTime = Date.parse(reply.headers.get("date") ?? "");
      if (serverTime) clockSkewMs = serverTime - Date.now();
      if (reply.ok) return await reply.json();
      const said = await reply.json().catch(() => ({}));
      throw new Refused(reply.status, String(said.error ?? `HTTP ${reply.status}`));
    } catch (error) {
      if (error instanceof Refused) throw error;
      throw new Refused(0, String(error?.message ?? error));
    } finally {
      clearTimeout(timer);
    }
  }

  /** The person's other windows. */
  const windows = "BroadcastChannel" in window ? new BroadcastChannel("whetstone") : null;

  Object.assign(Whetstone, { call, windows, serverNow: () => Date.now() + clockSkewMs });
})();
