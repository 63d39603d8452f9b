/* Drafts: what is said of an item before its verdict, kept as it is said until it is judged.
 *
 * A draft is {order, ties, out, isTouched, ratings, criteria, reasons, rationale, flags, rewrite};
 * places count from 0 in the order displayed. It outlives the page and the lease.
 */
"use strict";

(() => {
  const { deferred, outbox, remembered } = Whetstone;

  const MAX_AGE_MS = 30 * 24 * 3600_000;
  const MAX_PREVIEW = 300;

  Whetstone.drafts = (() => {
    const known = new Map(); // lease id -> draft
    const unsaved = new Set();
    const changed = new Set();

    const prefix = () => `draft.${outbox.owner}.`;
    const notify = deferred(() => changed.forEach((listener) => listener()));

    function blank(item) {
      return {
        order: item.responses.map((_, place) => place),
        ties: [], // places that share the rank of the one above
        out: [], // places that are left out of the ranking
        isTouched: false,
        ratings: item.responses.map(() => null),
        criteria: {}, // by name: {place, strength} or {ratings}
        reasons: [],
        rationale: "",
        flags: [], // {kind, place}, place null for the prompt
        rewrite: null, // {text, place}, place null when written anew
      };
    }

    /** Take in what this browser keeps of the person. */
    function open() {
      for (const key of remembered.keys(prefix())) {
        try {
          const draft = JSON.parse(remembered.get(key));
          if (Date.now() - draft.at < MAX_AGE_MS) known.set(key.slice(prefix().length), draft);
          else remembered.remove(key);
        } catch {
          remembered.remove(key);
        }
      }
      notify();
    }

    function of(item) {
      const draft = known.get(item.lease_id);
      return draft?.ratings.length === item.responses.length ? draft : blank(item);
    }

    /** Say more, or something else, of an item. */
    function change(item, action) {
      const draft = of(item);
      action(draft);
      draft.at = Date.now();
      draft.preview = item.messages.at(-1).text.slice(0, MAX_PREVIEW);
      draft.language = item.language;
      known.set(item.lease_id, draft);
      unsaved.add(item.lease_id);
      save();
      notify();
    }

    const save = deferred(flush);

    function flush() {
      for (const leaseId of unsaved) {
        const draft = known.get(leaseId);
        if (draft) remembered.set(prefix() + leaseId, JSON.stringify(draft));
        else remembered.remove(prefix() + leaseId);
      }
      unsaved.clear();
    }

    /** It was judged. Returns what was said, so that an undo can bring it back. */
    function take(item) {
      const draft = known.get(item.lease_id) ?? null;
      forget(item.lease_id);
      return draft;
    }

    function forget(leaseId) {
      if (!known.delete(leaseId)) return;
      unsaved.add(leaseId);
      save();
      notify();
    }

    function putBack(item, draft) {
      if (draft) change(item, (fresh) => Object.assign(fresh, draft));
    }

    const hasNotes = (draft) =>
      Boolean(draft.reasons.length || draft.rationale.trim() || draft.flags.length || draft.rewrite);
    const hasAnswers = (draft) =>
      draft.isTouched || draft.ratings.some((rating) => rating !== null) || Object.keys(draft.criteria).length > 0;

    /** [lease id, draft] of everything begun, newest first. */
    const list = () =>
      [...known]
        .filter(([, draft]) => hasNotes(draft) || hasAnswers(draft))
        .sort(([, a], [, b]) => b.at - a.at);

    /** What goes with a verdict, as the server takes it. */
    function notesOf(item) {
      const draft = of(item);
      const criteria = (Whetstone.me?.criteria ?? []).flatMap(({ name, scale }) => {
        const answer = draft.criteria[name];
        return answer && (!answer.ratings || answer.ratings.some((rating) => rating !== null))
          ? [{ name, scale, ...answer }]
          : [];
      });
      return {
        criteria,
        reasons: draft.reasons,
        rationale: draft.rationale.trim() || null,
        flags: draft.flags,
        rewrite: draft.rewrite?.text.trim() ? draft.rewrite : null,
      };
    }

    /** The draft that a judgment was made of, from what the server says of it. */
    function fromSaid(item, said) {
      const draft = blank(item);
      if (said.ranks) {
        const rank = (place) => said.ranks[place] ?? Infinity;
        draft.order.sort((a, b) => rank(a) - rank(b));
        draft.out = draft.order.filter((place) => said.ranks[place] === null);
        draft.order = draft.order.filter((place) => said.ranks[place] !== null);
        draft.ties = draft.order.filter((place, i) => i > 0 && rank(place) === rank(draft.order[i - 1]));
        draft.isTouched = true;
      }
      if (said.ratings) draft.ratings = said.ratings;
      for (const { name, place, strength, ratings } of said.criteria) {
        draft.criteria[name] = ratings ? { ratings } : { place, strength };
      }
      draft.reasons = said.reasons;
      draft.rationale = said.rationale ?? "";
      draft.flags = said.flags;
      draft.rewrite = said.rewrite;
      return draft;
    }

    addEventListener("pagehide", flush);

    return {
      open,
      of,
      change,
      take,
      forget,
      putBack,
      list,
      notesOf,
      fromSaid,
      hasNotes,
      has: (leaseId) => known.has(leaseId),
      onChange: (listener) => changed.add(listener),
    };
  })();
})();
