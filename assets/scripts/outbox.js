/* What was decided here and is not yet acknowledged; it survives reloads. */
"use strict";

(() => {
  const { call, windows, deferred, backoff } = Whetstone;

  /* An operation is {id, kind: "judgment"|"undo", at, body, after?, isPractice?, tried?, problem?}. Each has a
   * storage key of its own, so that two windows never overwrite each other's. They are sent in
   * order; one that the server refuses is set aside and never holds up the others. */
  Whetstone.outbox = (() => {
    let owner = null; // annotator id
    let ownerName = "";
    let operations = [];
    let isPumping = false;
    let attempt = 0;
    let retryTimer = 0;
    let state = "idle"; // idle, sending, offline, busy, signed_out
    let isMemoryOnly = false;
    let lastAt = 0;
    let others = []; // [name, how many]: unsent judgments that other people left in this browser
    const settled = new Map(); // operation id -> resolvers waiting for its reply
    const changed = new Set();

    const prefix = () => `whetstone.unsent.${owner}.`;
    const notify = deferred(() => changed.forEach((listener) => listener()));
    const unsent = () => operations.filter((op) => !op.problem);

    function keep(op) {
      try {
        localStorage.setItem(prefix() + op.id, JSON.stringify({ ...op, by: ownerName }));
      } catch {
        isMemoryOnly = true;
      }
    }

    function forget(op) {
      operations = operations.filter((other) => other !== op);
      try {
        localStorage.removeItem(prefix() + op.id);
      } catch {
        /* It was never stored. */
      }
      if (!operations.length) isMemoryOnly = false;
    }

    function open(id, name) {
      owner = id;
      ownerName = name;
      const known = new Set(operations.map((op) => op.id));
      try {
        for (const key of Object.keys(localStorage)) {
          if (!key.startsWith(prefix())) continue;
          const op = JSON.parse(localStorage.getItem(key));
          if (op?.id && op.body && !known.has(op.id)) operations.push({ ...op, tried: true });
        }
      } catch {
        /* Unreadable storage must not keep anyone from judging. */
      }
      operations.sort((a, b) => a.at - b.at);
      others = countOthers();
      notify();
      return pump();
    }

    function countOthers() {
      const counts = new Map();
      try {
        for (const key of Object.keys(localStorage)) {
          const match = /^whetstone\.unsent\.(.+)\.[^.]+$/.exec(key);
          if (!match || match[1] === owner) continue;
          const name = JSON.parse(localStorage.getItem(key))?.by ?? "?";
          counts.set(name, (counts.get(name) ?? 0) + 1);
        }
      } catch {
        /* None that can be read. */
      }
      return [...counts];
    }

    function add(kind, id, body, more = {}) {
      lastAt = Math.max(Date.now(), lastAt + 1);
      const op = { id, kind, at: lastAt, body, ...more };
      operations.push(op);
      keep(op);
      notify();
      setTimeout(pump);
      return op;
    }

    async function pump() {
      if (isPumping || owner === null) return;
      isPumping = true;
      clearTimeout(retryTimer);
      try {
        for (let op = unsent()[0]; op; op = unsent()[0]) {
          op.tried = true;
          if (state === "idle") state = "sending";
          notify();
          let reply;
          try {
            reply = await call("POST", `/api/judging/${op.kind === "undo" ? "undo" : "judgments"}`, {
              id: op.id,
              ...op.body,
            });
          } catch (error) {
            if (error.isFinal) {
              setAside(op, error.message);
              continue;
            }
            state = error.isSignedOut ? "signed_out" : error.isUnreachable ? "offline" : "busy";
            retryTimer = setTimeout(pump, backoff(attempt++));
            notify();
            return;
          }
          attempt = 0;
          state = "sending";
          settle(op, reply);
        }
        state = "idle";
        attempt = 0;
        notify();
      } finally {
        isPumping = false;
      }
    }

    function settle(op, reply) {
      forget(op);
      windows?.postMessage({ delivered: op.id });
      if (op.kind === "undo" && reply?.item) {
        for (const other of operations) {
          if (other.after !== op.id) continue;
          other.body.lease_id = reply.item.lease_id;
          keep(other);
        }
      }
      finish(op, reply);
    }

    function setAside(op, problem) {
      op.problem = problem;
      keep(op);
      finish(op, null);
    }

    function finish(op, reply) {
      settled.get(op.id)?.(reply);
      settled.delete(op.id);
      if (reply?.progress) Whetstone.supply.setProgress(reply.progress);
      if (reply?.revealed) Whetstone.compare.reveal(reply.revealed);
      notify();
    }

    /** Resolves with the server's reply, or null when it was refused. */
    const replyTo = (id) => new Promise((done) => settled.set(id, done));

    function retryAside() {
      for (const op of operations) {
        delete op.problem;
        keep(op);
      }
      pump();
    }

    function forgetAside() {
      for (const op of operations.filter((other) => other.problem)) forget(op);
      notify();
    }

    // Two windows may both hold what was unsent at the last reload; sending twice is harmless.
    windows?.addEventListener("message", ({ data }) => {
      const op = data.delivered && operations.find((other) => other.id === data.delivered);
      if (op) forget(op);
      if (op) notify();
    });
    addEventListener("online", () => {
      attempt = 0;
      pump();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && state !== "idle") pump();
    });

    return {
      open,
      add,
      forget: (op) => {
        forget(op);
        notify();
      },
      find: (id) => operations.find((op) => op.id === id),
      replyTo,
      retryAside,
      forgetAside,
      unsent,
      aside: () => operations.filter((op) => op.problem),
      leaseIds: () => unsent().map((op) => op.body.lease_id).filter(Boolean),
      get state() {
        return state;
      },
      get isMemoryOnly() {
        return isMemoryOnly;
      },
      get owner() {
        return owner;
      },
      get others() {
        return others;
      },
      onChange: (listener) => changed.add(listener),
    };
  })();
})();
