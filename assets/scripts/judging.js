/* Judging: the next item is shown at once, the verdict is sent behind; undo. */
"use strict";

(() => {
  const { call, windows, uuid, outbox, supply, guidelines, drafts } = Whetstone;

  const MAX_UNDO = 50;

  const VERDICTS = {
    a3: { verdict: "preferred", place: 0, strength: 3 },
    a: { verdict: "preferred", place: 0, strength: 2 },
    a1: { verdict: "preferred", place: 0, strength: 1 },
    b1: { verdict: "preferred", place: 1, strength: 1 },
    b: { verdict: "preferred", place: 1, strength: 2 },
    b3: { verdict: "preferred", place: 1, strength: 3 },
    tie: { verdict: "tie", place: null, strength: null },
    both_bad: { verdict: "both_bad", place: null, strength: null },
    skip: { verdict: "skipped", place: null, strength: null },
    not_rankable: { verdict: "not_rankable", place: null, strength: null },
  };

  /** Time that an item was really looked at: the page visible, its tab in front. */
  Whetstone.makeStopwatch = () => {
    let spentMs = 0;
    let since = null;
    return {
      reset() {
        spentMs = 0;
        since = null;
      },
      run(isRunning) {
        const now = performance.now();
        if (since !== null) spentMs += now - since;
        since = isRunning ? now : null;
      },
      read() {
        return Math.round(spentMs + (since === null ? 0 : performance.now() - since));
      },
    };
  };
  Whetstone.stopwatch = Whetstone.makeStopwatch();

  Whetstone.judging = (() => {
    const done = []; // {id, item, draft}, newest last
    const restored = new Map(); // lease id -> id of the undo that is still on its way
    const corrections = new Map(); // lease id -> id of the judgment that the next one corrects

    /** `said` is the verdict with its own fields; the notes of the draft go with it. */
    function judge(choice, said = { ...VERDICTS[choice] }) {
      const item = supply.current;
      if (!item || Whetstone.compare.isRestoring) return;
      const id = uuid();
      const undoId = restored.get(item.lease_id);
      const durationMs = Whetstone.stopwatch.read();
      const isPractice = Boolean(item.practice);
      const reply = isPractice ? outbox.replyTo(id) : null;
      outbox.add(
        "judgment",
        id,
        {
          lease_id: item.lease_id,
          ...said,
          ...drafts.notesOf(item),
          supersedes: corrections.get(item.lease_id) ?? null,
          duration_ms: durationMs,
          guidelines_version: guidelines.version,
        },
        { isPractice, ...(undoId && outbox.find(undoId) ? { after: undoId } : {}) },
      );
      const isCorrection = corrections.delete(item.lease_id);
      const draft = drafts.take(item);
      if (isPractice) Whetstone.practice.answer(item, reply);
      else {
        done.push({ id, item, draft });
        if (done.length > MAX_UNDO) done.shift();
        supply.next();
        if (!isCorrection && choice !== "skip") Whetstone.pace.count(durationMs);
      }
      Whetstone.compare.confirm(choice, { stays: isPractice });
      setTimeout(() => windows?.postMessage({ judged: item.lease_id, by: outbox.owner }));
    }

    /** Take back the newest judgment, or the given one. */
    async function undo(judgmentId = null) {
      if (Whetstone.compare.isRestoring) return;
      const at = judgmentId === null ? done.length - 1 : done.findIndex((x) => x.id === judgmentId);
      const known = at >= 0 ? done.splice(at, 1)[0] : null;
      if (known) Whetstone.pace.uncount();
      const op = outbox.find(known?.id ?? judgmentId);
      if (known && op && (!op.tried || op.problem)) {
        outbox.forget(op);
        if (op.body.supersedes) corrections.set(known.item.lease_id, op.body.supersedes);
        show(known.item, known.draft);
        return;
      }
      if (!known) {
        await fetchBack(judgmentId);
        return;
      }
      const undoId = uuid();
      const reply = outbox.replyTo(undoId);
      outbox.add("undo", undoId, { judgment_id: known.id });
      restored.set(known.item.lease_id, undoId);
      show(known.item, known.draft);
      const back = (await reply)?.item;
      restored.delete(known.item.lease_id);
      if (back) Object.assign(known.item, { lease_id: back.lease_id, expires_at: back.expires_at });
    }

    /** Undo what was judged before this page was loaded; only the server knows the item. */
    async function fetchBack(judgmentId) {
      if (outbox.unsent().length) {
        Whetstone.compare.tell("say.undo_failed");
        return;
      }
      Whetstone.compare.restore(true);
      try {
        const newest = judgmentId ? null : (await call("GET", "/api/judging/history?limit=1")).judgments[0];
        if (newest?.is_practice) {
          Whetstone.compare.tell("practice.no_undo");
          return;
        }
        const id = judgmentId ?? newest?.id;
        if (!id) {
          Whetstone.compare.tell("say.nothing_to_undo");
          return;
        }
        const { said } = await call("GET", `/api/judging/judgments/${id}`);
        const reply = await call("POST", "/api/judging/undo", { id: uuid(), judgment_id: id });
        supply.setProgress(reply.progress);
        show(reply.item, drafts.fromSaid(reply.item, said));
      } catch (error) {
        Whetstone.compare.tell("say.undo_failed", error.isFinal ? error.message : null);
      } finally {
        Whetstone.compare.restore(false);
      }
    }

    function show(item, draft) {
      drafts.putBack(item, draft);
      supply.putBack(item);
      Whetstone.compare.tell("say.restored");
    }

    /** Show what was judged before, as it was judged; the next verdict takes its place. */
    async function correct(judgmentId) {
      const { item, said } = await call("GET", `/api/judging/judgments/${judgmentId}`);
      if (!drafts.has(item.lease_id)) drafts.putBack(item, drafts.fromSaid(item, said));
      item.said = said;
      corrections.set(item.lease_id, judgmentId);
      supply.putBack(item);
    }

    /** What was judged stays as it was. */
    function keep() {
      const item = supply.current;
      if (!item || !corrections.delete(item.lease_id)) return;
      drafts.forget(item.lease_id);
      supply.drop(item.lease_id);
    }

    windows?.addEventListener("message", ({ data }) => {
      if (data.judged && data.by === outbox.owner && supply.drop(data.judged)) {
        Whetstone.compare.tell("say.elsewhere");
      }
    });

    return { judge, undo, correct, keep, isCorrecting: (item) => corrections.has(item?.lease_id) };
  })();

  Object.assign(Whetstone, { VERDICTS });
})();
