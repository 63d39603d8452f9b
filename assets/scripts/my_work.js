/* My work: what the person has at hand, has begun and has judged; each can be gone to. */
"use strict";

(() => {
  const { call, el, t, locale, outbox, supply, drafts, judging, VERDICTS } = Whetstone;

  const LETTERS = "ABCDEFGHI";

  Whetstone.myWork = (() => {
    let root = null;
    let view = "submitted";
    let rows = null; // until they were fetched once
    let problem = null;
    let isInView = false;
    let newest = 0;

    function mount(element) {
      root = element.querySelector(".ws-work");
      root.querySelector("[data-act=refresh]").addEventListener("click", refresh);
      for (const button of root.querySelectorAll("[data-view]")) {
        button.addEventListener("click", () => {
          view = button.dataset.view;
          paint();
        });
      }
      new IntersectionObserver(([entry]) => {
        isInView = entry.isIntersecting;
        if (isInView) refresh();
      }).observe(root);
      locale.translate(root);
    }

    async function refresh() {
      const asked = ++newest;
      if (!rows) paint();
      let found = rows;
      let failure = null;
      try {
        found = (await call("GET", "/api/judging/history?limit=100")).judgments;
      } catch (error) {
        failure = error.isUnreachable ? t("unreachable.title") : error.message;
      }
      if (asked !== newest) return;
      rows = found;
      problem = failure;
      paint();
    }

    function paint() {
      if (!root) return;
      const begun = drafts.list();
      const counts = { submitted: null, drafts: begun.length, pending: supply.items.length };
      for (const button of root.querySelectorAll("[data-view]")) {
        button.setAttribute("aria-pressed", String(button.dataset.view === view));
        const count = counts[button.dataset.view];
        button.querySelector("[data-part=count]").textContent = count ? String(count) : "";
      }
      root.querySelector("[data-part=note]").textContent = notesOf(begun).join(" ");
      const lines = {
        submitted: () => (rows ?? []).map(line),
        drafts: () => begun.map(([leaseId, draft]) => draftLine(leaseId, draft)),
        pending: () => supply.items.map(pendingLine),
      }[view]();
      root.querySelector("[data-part=list]").replaceChildren(...lines);
    }

    function notesOf(begun) {
      if (view === "drafts") return begun.length ? [] : [t("work.no_drafts")];
      if (view === "pending") return supply.items.length ? [] : [t("work.no_pending")];
      const unsent = outbox.unsent().length;
      const said = [];
      if (unsent) said.push(locale.plural("work.unsent", unsent));
      if (problem) said.push(t("work.failed", { problem }));
      else if (!rows) said.push(t("work.loading"));
      else if (!rows.length && !unsent) said.push(t("work.empty"));
      return said;
    }

    const when = (time) =>
      new Date(time).toLocaleString(locale.tag(), { dateStyle: "medium", timeStyle: "short" });

    function action(text, label, onclick) {
      return el("button", { type: "button", class: "ws-small", "aria-label": label, onclick }, text);
    }

    function line(row) {
      const time = when(row.recorded_at);
      const undo = () => go(() => judging.undo(row.id));
      const correct = () => go(() => judging.correct(row.id));
      return el(
        "li",
        { class: "ws-work-row", "data-judgment": row.id },
        el(
          "div",
          { class: "ws-work-head" },
          el("span", { class: "ws-chip" }, spoken(row)),
          el("time", { datetime: row.recorded_at, class: "ws-quiet" }, time),
          ...extras(row),
          el("span", { class: "ws-work-gap" }),
          // The answer to a practice item was told; there is nothing to change about it.
          ...(row.is_practice
            ? []
            : [action(t("work.change"), t("work.change_label", { time }), correct), action(t("work.undo"), t("work.undo_label", { time }), undo)]),
        ),
        el("p", { class: "ws-work-prompt", dir: "auto" }, row.prompt_text),
        el("div", { class: "ws-work-responses" }, ...inOrder(row).map((place) => response(row, place))),
        ...(row.rationale || row.reasons.length
          ? [el("p", { class: "ws-work-why", dir: "auto" }, [...row.reasons, row.rationale].filter(Boolean).join(" · "))]
          : []),
      );
    }

    function spoken(row) {
      if (row.verdict === "ranked") return t("verdict.ranked");
      if (row.verdict === "rated") return t("verdict.rated");
      const choice = Object.keys(VERDICTS).find(
        (name) => VERDICTS[name].verdict === row.verdict && VERDICTS[name].place === row.place
          && VERDICTS[name].strength === row.strength,
      );
      return t(`verdict.${choice}`);
    }

    function extras(row) {
      const said = [];
      if (row.is_practice) said.push(t("practice.name"));
      if (row.is_rewritten) said.push(t("work.rewritten"));
      if (row.flags.length) said.push(t("work.flagged"));
      return said.map((text) => el("span", { class: "ws-chip" }, text));
    }

    /** A ranking is shown best first, what was left out last. */
    function inOrder(row) {
      const places = row.response_texts.map((_, place) => place);
      if (!row.ranks) return places;
      return places.sort((a, b) => (row.ranks[a] ?? Infinity) - (row.ranks[b] ?? Infinity));
    }

    function response(row, place) {
      const isChosen = row.place === place;
      const mark = row.ranks ? `${row.ranks[place] ?? "–"} · ` : "";
      const rating = row.ratings?.[place];
      const rated = rating == null ? "" : row.rating_scale === "thumbs" ? t(`rating.thumb_${rating ? "up" : "down"}`) : `${rating}/5`;
      return el(
        "p",
        { dir: "auto", "data-chosen": isChosen ? "" : null },
        el("span", { class: "ws-letter", dir: "ltr" }, mark + (LETTERS[place] ?? String(place + 1))),
        ...(isChosen ? [el("span", { class: "ws-visually-hidden", dir: "ltr" }, `(${t("work.a_chosen")}) `)] : []),
        ...(rated ? [el("span", { class: "ws-chip" }, rated), " "] : []),
        row.response_texts[place],
      );
    }

    function draftLine(leaseId, draft) {
      const time = when(draft.at);
      return el(
        "li",
        { class: "ws-work-row" },
        el(
          "div",
          { class: "ws-work-head" },
          el("time", { class: "ws-quiet" }, time),
          el("span", { class: "ws-work-gap" }),
          action(t("work.continue"), t("work.continue_label", { time }), () => go(() => reopen(leaseId))),
          action(t("work.discard"), t("work.discard_label", { time }), () => drafts.forget(leaseId)),
        ),
        el("p", { class: "ws-work-prompt", dir: "auto", lang: draft.language }, draft.preview),
        ...(draft.rationale || draft.rewrite
          ? [el("p", { class: "ws-work-why", dir: "auto" }, draft.rationale || draft.rewrite.text)]
          : []),
      );
    }

    function pendingLine(item) {
      const text = item.messages.at(-1).text;
      return el(
        "li",
        { class: "ws-work-row" },
        el(
          "div",
          { class: "ws-work-head" },
          el("span", { class: "ws-quiet" }, locale.plural("work.responses", item.responses.length)),
          el("span", { class: "ws-work-gap" }),
          action(t("work.judge_now"), t("work.judge_now"), () => go(() => supply.putBack(item))),
        ),
        el("p", { class: "ws-work-prompt", dir: "auto", lang: item.language }, text),
      );
    }

    async function reopen(leaseId) {
      const atHand = supply.items.find((item) => item.lease_id === leaseId);
      supply.putBack(atHand ?? (await call("GET", `/api/judging/items/${leaseId}`)).item);
    }

    /** Do it, and show the comparison; what fails is told here. */
    async function go(action) {
      try {
        await action();
        document.getElementById("tab-compare-button")?.click();
      } catch (error) {
        problem = error.isUnreachable ? t("unreachable.title") : error.message;
        view = "submitted";
        paint();
      }
    }

    // What was still on its way when the list was drawn belongs to it too.
    outbox.onChange(() => {
      if (!isInView) return;
      if (outbox.unsent().length) paint();
      else refresh();
    });
    drafts.onChange(() => isInView && paint());
    locale.onChange(() => {
      if (!root) return;
      locale.translate(root);
      paint();
    });

    return { mount };
  })();
})();
