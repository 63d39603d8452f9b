/* Three and more responses in a list: ranked by keys, by dragging and by buttons, or rated one by one.
 *
 * The order is the draft's; the list only shows it. Equal ranks are a tie, what is left out is in no
 * pair.
 */
"use strict";

(() => {
  const { el, t, say, keys, drafts } = Whetstone;

  const LETTERS = "ABCDEFGHI";

  Whetstone.ranking = (() => {
    let list = null;
    let item = null;
    let cards = []; // by place
    let current = 0; // the place that keys act on
    let isRanked = true;

    /** Draw the list; `bodies` are the nodes with each response's text. */
    function show(node, shown, bodies, { isRanking }) {
      list = node;
      item = shown;
      isRanked = isRanking;
      const draft = drafts.of(item);
      current = draft.order[0] ?? 0;
      cards = bodies.map((body, place) => card(body, place));
      paint();
    }

    function clear() {
      item = null;
      cards = [];
      list?.replaceChildren();
    }

    function card(body, place) {
      const letter = LETTERS[place];
      const title = t("ranking.response", { letter });
      const text = el("div", { class: "ws-card-text", id: `ws-card-text-${place}` }, body);
      const more = el("button", { type: "button", class: "ws-small ws-card-more", hidden: true, "aria-controls": text.id, "aria-expanded": "false" }, t("conversation.show_all"));
      more.addEventListener("click", () => unfold(node));
      const head = el("div", { class: "ws-card-head" }, el("h2", { class: "ws-card-title" }, title), el("span", { class: "ws-card-gap" }));
      if (isRanked) {
        const tool = (act, id, sign) =>
          el(
            "button",
            { type: "button", class: "ws-small", "data-rank-act": act, "data-keys": id, "aria-label": t(`ranking.${act}_label`, { letter }), onclick: () => doTo(place, act) },
            el("span", { "aria-hidden": sign ? "true" : null }, sign ?? t(`ranking.${act}`)),
            ...(id ? [el("kbd", { "aria-hidden": "true" })] : []),
          );
        head.append(tool("tie", "list.rank_tie"), tool("out", "list.rank_out"), tool("up", null, "↑"), tool("down", null, "↓"));
        keys.print(head);
      }
      const side = el("div", { class: "ws-card-side" });
      if (isRanked) {
        const grip = el("span", { class: "ws-grip", "aria-hidden": "true" }, "⠿");
        side.append(el("span", { class: "ws-rank", "aria-hidden": "true" }), grip);
        side.addEventListener("pointerdown", (event) => startDrag(event, place));
      }
      const node = el(
        "li",
        { class: "ws-card", tabindex: "-1", "data-place": String(place), "aria-label": title },
        ...(isRanked ? [side] : []),
        el("div", { class: "ws-card-main" }, head, text, more, el("div", { class: "ws-response-foot" })),
      );
      node.addEventListener("focusin", () => {
        current = place;
        mark();
      });
      node.addEventListener("pointerdown", () => {
        current = place;
        mark();
      });
      return node;
    }

    /** The cards whose text is longer than its folded box get a button; measured in one pass. */
    function fold() {
      const long = cards.map((node) => {
        const text = node.querySelector(".ws-card-text");
        return text.scrollHeight > text.clientHeight + 4;
      });
      cards.forEach((node, place) => {
        node.querySelector(".ws-card-more").hidden = !long[place] && !node.hasAttribute("data-unfolded");
        node.toggleAttribute("data-long", long[place]);
      });
    }

    function unfold(node) {
      const isOpen = node.toggleAttribute("data-unfolded");
      const more = node.querySelector(".ws-card-more");
      more.setAttribute("aria-expanded", String(isOpen));
      more.textContent = t(isOpen ? "conversation.show_less" : "conversation.show_all");
    }

    /** The rank of each place, null where it is left out. */
    function ranks() {
      const draft = drafts.of(item);
      const found = item.responses.map(() => null);
      let rank = 0;
      for (const place of draft.order) {
        if (rank === 0 || !draft.ties.includes(place)) rank++;
        found[place] = rank;
      }
      return found;
    }

    function paint() {
      if (!item) return;
      const draft = drafts.of(item);
      const found = ranks();
      const sequence = isRanked ? [...draft.order, ...draft.out] : cards.map((_, place) => place);
      const nodes = sequence.map((place) => cards[place]);
      if (isRanked && draft.out.length) {
        nodes.splice(draft.order.length, 0, el("li", { class: "ws-out-line" }, t("ranking.out_line")));
      }
      const focused = document.activeElement;
      list.replaceChildren(...nodes);
      if (list.contains(focused) && focused !== document.activeElement) focused.focus({ preventScroll: true });
      if (isRanked) {
        for (const [place, node] of cards.entries()) {
          node.querySelector(".ws-rank").textContent = found[place] ?? "–";
          node.toggleAttribute("data-out", found[place] === null);
          node.toggleAttribute("data-tied", draft.ties.includes(place) && place !== draft.order[0] && found[place] !== null);
          const at = draft.order.indexOf(place);
          node.querySelector("[data-rank-act=tie]").disabled = at < 1;
          node.querySelector("[data-rank-act=tie]").setAttribute("aria-pressed", String(node.hasAttribute("data-tied")));
          node.querySelector("[data-rank-act=out]").setAttribute("aria-pressed", String(at < 0));
          node.querySelector("[data-rank-act=up]").disabled = at < 1;
          node.querySelector("[data-rank-act=down]").disabled = at < 0 || at === draft.order.length - 1;
        }
      }
      mark();
    }

    function mark() {
      for (const [place, node] of cards.entries()) {
        node.toggleAttribute("data-current", place === current);
        node.tabIndex = place === current ? 0 : -1;
      }
    }

    // Changing the order

    function change(action) {
      drafts.change(item, (draft) => {
        action(draft);
        draft.isTouched = true;
        draft.ties = draft.ties.filter((place) => draft.order.indexOf(place) > 0);
      });
      paint();
      const rank = ranks()[current];
      const letter = LETTERS[current];
      say(rank === null ? t("ranking.said_out", { letter }) : t("ranking.said", { letter, rank }));
    }

    /** Put a place before the one that is now number `at` of the order. */
    function moveTo(place, target) {
      change((draft) => {
        const from = draft.order.indexOf(place);
        // Whoever was tied to it alone has a rank of their own now.
        const below = from >= 0 ? draft.order[from + 1] : undefined;
        if (!draft.ties.includes(place)) draft.ties = draft.ties.filter((other) => other !== below);
        draft.ties = draft.ties.filter((other) => other !== place);
        draft.order = draft.order.filter((other) => other !== place);
        draft.out = draft.out.filter((other) => other !== place);
        const at = Math.max(0, Math.min(target, draft.order.length));
        // Between two that are tied it is tied too.
        if (draft.ties.includes(draft.order[at])) draft.ties.push(place);
        draft.order.splice(at, 0, place);
      });
    }

    function doTo(place, act) {
      current = place;
      const draft = drafts.of(item);
      const at = draft.order.indexOf(place);
      if (act === "up" && at > 0) moveTo(place, at - 1);
      else if (act === "down" && at >= 0 && at < draft.order.length - 1) moveTo(place, at + 1);
      else if (act === "tie" && at > 0) {
        change((fresh) => {
          const isTied = fresh.ties.includes(place);
          fresh.ties = isTied ? fresh.ties.filter((other) => other !== place) : [...fresh.ties, place];
        });
      } else if (act === "out" && at >= 0) {
        change((fresh) => {
          fresh.order = fresh.order.filter((other) => other !== place);
          fresh.out = [...fresh.out, place];
        });
      } else if (act === "out") moveTo(place, draft.order.length);
    }

    // Keys

    /** Whether the key meant something here; `action` is what it does in a ranking. */
    function onKey(event, key, action) {
      const step = { down: 1, up: -1 }[action];
      if (step && (event.shiftKey || event.altKey) && isRanked) doTo(current, step > 0 ? "down" : "up");
      else if (step && !event.shiftKey && !event.altKey) walk(step);
      else if (event.altKey || !isRanked) return false;
      else if (/^[1-9]$/.test(key)) moveTo(current, Number(key) - 1);
      else if (action === "rank_tie") doTo(current, "tie");
      else if (action === "rank_out") doTo(current, "out");
      else return false;
      if (step) cards[current].focus({ preventScroll: true });
      cards[current]?.scrollIntoView({ block: "nearest" });
      return true;
    }

    function walk(step) {
      const draft = drafts.of(item);
      const sequence = isRanked ? [...draft.order, ...draft.out] : cards.map((_, place) => place);
      const at = sequence.indexOf(current) + step;
      current = sequence[Math.max(0, Math.min(at, sequence.length - 1))];
      mark();
    }

    // Dragging, by mouse, pen and finger

    function startDrag(event, place) {
      if (event.button !== 0) return;
      event.preventDefault();
      const node = cards[place];
      const handle = event.currentTarget;
      current = place;
      mark();
      handle.setPointerCapture(event.pointerId);
      const startY = event.clientY;
      let isMoving = false;
      const move = (moved) => {
        if (!isMoving && Math.abs(moved.clientY - startY) < 4) return;
        isMoving = true;
        node.setAttribute("data-dragged", "");
        node.style.transform = `translateY(${moved.clientY - startY}px)`;
        scrollNear(moved.clientY);
        showTarget(targetAt(moved.clientY, place));
      };
      const end = (ended) => {
        handle.removeEventListener("pointermove", move);
        handle.removeEventListener("pointerup", end);
        handle.removeEventListener("pointercancel", end);
        const target = targetAt(ended.clientY, place);
        node.removeAttribute("data-dragged");
        node.style.transform = "";
        showTarget(null);
        if (isMoving && ended.type === "pointerup") drop(place, target);
      };
      handle.addEventListener("pointermove", move);
      handle.addEventListener("pointerup", end);
      handle.addEventListener("pointercancel", end);
    }

    /** How many other rows lie above this height: where a drop would put the card. */
    function targetAt(y, place) {
      const rows = [...list.children].filter((row) => row !== cards[place]);
      const at = rows.filter((row) => {
        const box = row.getBoundingClientRect();
        return y > box.top + box.height / 2;
      }).length;
      return { at, row: rows[at] ?? null };
    }

    function drop(place, { at }) {
      const line = [...list.children].filter((row) => row !== cards[place]).findIndex((row) => row.matches(".ws-out-line"));
      if (line >= 0 && at > line) {
        if (!drafts.of(item).out.includes(place)) doTo(place, "out");
      } else moveTo(place, at);
    }

    function showTarget(target) {
      for (const row of list.children) row.removeAttribute("data-drop");
      if (target === null) return;
      if (target.row) target.row.setAttribute("data-drop", "before");
      else [...list.children].at(-1)?.setAttribute("data-drop", "after");
    }

    function scrollNear(y) {
      const box = list.parentElement.getBoundingClientRect();
      if (y < box.top + 40) list.parentElement.scrollBy({ top: -12 });
      else if (y > box.bottom - 40) list.parentElement.scrollBy({ top: 12 });
    }

    return {
      show,
      clear,
      fold,
      onKey,
      ranks,
      feet: () => cards.map((node) => node.querySelector(".ws-response-foot")),
      bodies: () => cards.map((node) => node.querySelector(".ws-card-text")),
      unfoldCurrent: () => {
        if (cards[current]?.hasAttribute("data-long")) unfold(cards[current]);
      },
      get isUntouched() {
        return !drafts.of(item).isTouched;
      },
    };
  })();
})();
