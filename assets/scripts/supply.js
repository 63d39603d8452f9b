/* The items at hand: prefetched, so that the judging path never waits. */
"use strict";

(() => {
  const { call, windows, serverNow, remembered, backoff, outbox } = Whetstone;

  const TARGET_ITEMS = 6;
  const LOW_MARK = 3;
  const RENEW_LEASES_MS = 8 * 60_000;

  Whetstone.supply = (() => {
    const changed = new Set();
    let items = []; // the first one is on the screen
    let progress = null;
    let trouble = null; // {kind: "loading"|"waiting"|"empty"|"unreachable"|"signed_out"|"problem", text?}
    let isFetching = false;
    let attempt = 0;
    let timer = 0;
    let isFirst = true;

    const notify = () => changed.forEach((listener) => listener());
    const isExpired = (item) => Date.parse(item.expires_at) < serverNow();
    const held = () => [...items.map((item) => item.lease_id), ...outbox.leaseIds()].slice(0, 50);

    async function refill() {
      if (isFetching || items.length > LOW_MARK) return;
      isFetching = true;
      clearTimeout(timer);
      let again = 0;
      try {
        const reply = await call("POST", "/api/judging/items", {
          want: TARGET_ITEMS - items.length,
          held: held(),
        });
        attempt = 0;
        letGo(reply.gone);
        take(reply.items);
        setProgress(reply.progress);
        Whetstone.guidelines.tell(reply.guidelines_version ?? null);
        if (reply.waiting) {
          trouble = {
            kind: reply.waiting.is_stuck ? "problem" : "waiting",
            text: reply.waiting.reason,
          };
          again = Math.max(300, reply.waiting.retry_s * 1000);
        } else {
          trouble = items.length ? null : { kind: "empty" };
          again = items.length > LOW_MARK ? 0 : items.length ? 5000 : 3000;
        }
      } catch (error) {
        trouble = error.isSignedOut
          ? { kind: "signed_out" }
          : error.isUnreachable
            ? { kind: "unreachable" }
            : { kind: "problem", text: error.message };
        again = backoff(attempt++);
      } finally {
        isFetching = false;
      }
      if (again) timer = setTimeout(refill, again);
      notify();
    }

    function take(found) {
      const known = new Set(held());
      const fresh = found.filter((item) => !known.has(item.lease_id));
      if (isFirst) {
        isFirst = false;
        // The server gives a reloaded page what it held; the one that was on the screen goes first.
        const was = remembered.getForWindow("current");
        fresh.sort((a, b) => (b.lease_id === was) - (a.lease_id === was));
      }
      items.push(...fresh);
    }

    /** Somebody else has these now; what is on the screen is finished all the same. */
    function letGo(leaseIds) {
      items = items.filter((item, place) => place === 0 || !leaseIds.includes(item.lease_id));
    }

    /** Tell the server what is held here; it may have been let go by another window. */
    async function renew() {
      try {
        letGo((await call("POST", "/api/judging/items", { want: 0, held: held() })).gone);
        notify();
      } catch {
        /* The next one tells it. */
      }
    }

    /** The next item that is still ours. What is on the screen stays ours, late or not. */
    function next() {
      items.shift();
      while (items.length && isExpired(items[0])) items.shift();
      if (!items.length && !trouble) trouble = { kind: "loading" };
      notify();
      setTimeout(refill);
    }

    /** The one on the screen comes again after the others at hand. */
    function later() {
      if (items.length < 2) return false;
      items.push(items.shift());
      notify();
      return true;
    }

    function putBack(item) {
      items = [item, ...items.filter((other) => other.lease_id !== item.lease_id)];
      notify();
    }

    function drop(leaseId) {
      const wasOnScreen = items[0]?.lease_id === leaseId;
      items = items.filter((item) => item.lease_id !== leaseId);
      if (wasOnScreen) notify();
      refill();
      return wasOnScreen;
    }

    function setProgress(found) {
      progress = found;
      notify();
    }

    // What waits behind the first item goes back to the others; a reload still finds its own.
    addEventListener("pagehide", () => {
      remembered.setForWindow("current", items[0]?.lease_id ?? "");
      const isLetGo = (item, place) => place > 0 && !Whetstone.drafts.has(item.lease_id);
      const leaseIds = items.filter(isLetGo).map((item) => item.lease_id);
      if (!leaseIds.length) return;
      items = items.filter((item, place) => !isLetGo(item, place));
      const body = new Blob([JSON.stringify({ lease_ids: leaseIds })], { type: "application/json" });
      navigator.sendBeacon("/api/judging/release", body);
      windows?.postMessage({ released: leaseIds });
    });
    windows?.addEventListener("message", ({ data }) => {
      if (data.released?.some((id) => items.some((item) => item.lease_id === id))) {
        setTimeout(renew, 1000); // after the release has reached the server
      }
    });
    addEventListener("pageshow", (event) => {
      if (event.persisted) refill();
    });
    addEventListener("online", () => {
      attempt = 0;
      refill();
    });
    setInterval(() => {
      if (items.length && !document.hidden) renew();
    }, RENEW_LEASES_MS);

    return {
      refill,
      next,
      later,
      putBack,
      drop,
      get items() {
        return items;
      },
      setProgress,
      get current() {
        return items[0] ?? null;
      },
      get following() {
        return items[1] ?? null;
      },
      get progress() {
        return progress;
      },
      get trouble() {
        return trouble ?? { kind: "loading" };
      },
      onChange: (listener) => changed.add(listener),
    };
  })();
})();
