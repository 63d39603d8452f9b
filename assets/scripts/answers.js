/* Answers below the responses: ratings of single responses, and the project's criteria.
 *
 * They are steps of one walk: a number answers the step at hand and goes to the next open one. After
 * them comes the verdict or, where responses are rated, nothing more: the last answer sends it.
 */
"use strict";

(() => {
  const { el, t, drafts } = Whetstone;

  const RATINGS = { thumbs: [0, 1], five_point: [1, 2, 3, 4, 5] };
  const COMPARISONS = {
    plain: [[0, 2], [null, null], [1, 2]],
    seven_point: [[0, 3], [0, 2], [0, 1], [null, null], [1, 1], [1, 2], [1, 3]],
  };
  const CHOICE_NAMES = {
    plain: ["a", "tie", "b"],
    seven_point: ["a3", "a", "a1", "tie", "b1", "b", "b3"],
  };
  const LETTERS = "ABCDEFGHI";

  /** For one page, which draws an item's steps anew whenever its language changes. */
  Whetstone.makeAnswers = () => {
    let item = null;
    let steps = []; // {name (null: the rating itself), scale, place (null: both), isRequired, node}
    let at = -1; // the step at hand; -1 when it is the verdict's turn
    let onDone = () => {};

    /** Draw the steps of an item: ratings into `feet`, one for each response, criteria into `box`. */
    function show(shown, { box, feet, isRating, whenDone }) {
      item = shown;
      onDone = whenDone;
      steps = [];
      const n = item.responses.length;
      for (const foot of feet) foot.replaceChildren();
      if (isRating) {
        feet.slice(0, n).forEach((foot, place) => {
          const step = { name: null, scale: Whetstone.me?.rating_scale ?? "five_point", place, isRequired: true };
          steps.push(step);
          foot.append(draw(step));
        });
      }
      const rows = (Whetstone.me?.criteria ?? []).flatMap((criterion) => row(criterion, n));
      box.replaceChildren(...rows);
      box.hidden = rows.length === 0;
      at = steps.findIndex((step) => step.isRequired && !isAnswered(step));
      paint();
    }

    /** Nothing is shown. */
    function clear({ box, feet }) {
      item = null;
      steps = [];
      at = -1;
      box.replaceChildren();
      box.hidden = true;
      for (const foot of feet) foot.replaceChildren();
    }

    function row({ name, scale, is_required: isRequired }, n) {
      const isComparison = scale in COMPARISONS;
      if (isComparison && n !== 2) return [];
      const places = isComparison ? [null] : item.responses.map((_, place) => place);
      const label = el("span", { class: "ws-criterion-name", dir: "auto" }, name);
      if (isRequired) label.append(el("span", { class: "ws-required", title: t("criteria.required") }, "*"));
      const groups = places.map((place) => {
        const step = { name, scale, place, isRequired };
        steps.push(step);
        return draw(step);
      });
      return [el("div", { class: "ws-criterion", "data-scale": scale }, label, el("div", { class: "ws-criterion-groups" }, ...groups))];
    }

    function draw(step) {
      const letter = step.place === null || item.responses.length === 1 ? "" : LETTERS[step.place];
      const named = step.name ?? t("rating.label");
      step.node = el("div", {
        class: "ws-step",
        role: "radiogroup",
        "data-step-scale": step.scale,
        "aria-label": letter ? `${named}, ${letter}` : named,
      });
      if (letter && step.name !== null) step.node.append(el("span", { class: "ws-step-letter", "aria-hidden": "true" }, letter));
      choices(step).forEach(({ label, hint }, i) => {
        const button = el(
          "button",
          { type: "button", class: "ws-option", role: "radio", "aria-checked": "false", "aria-label": hint, title: hint, tabindex: "-1" },
          el("span", {}, label),
          el("kbd", { "aria-hidden": "true" }, String(i + 1)),
        );
        button.addEventListener("click", (event) => {
          if (event.detail > 1) return;
          answer(step, i);
        });
        step.node.append(button);
      });
      step.node.addEventListener("focusin", () => {
        at = steps.indexOf(step);
        paint();
      });
      step.node.addEventListener("keydown", (event) => onArrow(event, step));
      return step.node;
    }

    function choices({ scale }) {
      if (scale === "thumbs") {
        return ["down", "up"].map((name) => ({ label: t(`rating.thumb_${name}`), hint: t(`rating.thumb_${name}`) }));
      }
      if (scale === "five_point") return RATINGS.five_point.map((n) => ({ label: String(n), hint: t(`rating.of_five_${n}`) }));
      return CHOICE_NAMES[scale].map((name) => ({ label: t(`criterion.${name}`), hint: t(`verdict.${name}`) }));
    }

    /** Which choice an answered step has, or -1. */
    function chosen(step) {
      const draft = drafts.of(item);
      if (step.name === null) return RATINGS[step.scale].indexOf(draft.ratings[step.place]);
      const said = draft.criteria[step.name];
      if (!said) return -1;
      if (step.place !== null) return RATINGS[step.scale].indexOf(said.ratings?.[step.place]);
      return COMPARISONS[step.scale].findIndex(([place, strength]) => place === said.place && strength === said.strength);
    }

    const isAnswered = (step) => chosen(step) >= 0;

    function answer(step, i) {
      drafts.change(item, (draft) => {
        if (step.name === null) {
          draft.ratings[step.place] = RATINGS[step.scale][i];
        } else if (step.place === null) {
          const [place, strength] = COMPARISONS[step.scale][i];
          draft.criteria[step.name] = { place, strength };
        } else {
          const said = draft.criteria[step.name] ?? { ratings: item.responses.map(() => null) };
          said.ratings[step.place] = RATINGS[step.scale][i];
          draft.criteria[step.name] = said;
        }
      });
      const rest = steps.slice(steps.indexOf(step) + 1).find((other) => other.isRequired && !isAnswered(other));
      const next = rest ?? steps.find((other) => other.isRequired && !isAnswered(other));
      at = next ? steps.indexOf(next) : -1;
      if (step.node.contains(document.activeElement)) document.activeElement.blur();
      paint();
      if (!next) onDone();
    }

    /** A digit for the step at hand; whether it was taken. */
    function onDigit(key) {
      const step = steps[at];
      const i = Number(key) - 1;
      if (!step || !(i >= 0 && i < choices(step).length)) return false;
      answer(step, i);
      return true;
    }

    function onArrow(event, step) {
      const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopPropagation();
      const buttons = [...step.node.querySelectorAll(".ws-option")];
      const i = buttons.indexOf(document.activeElement);
      buttons[(i + move + buttons.length) % buttons.length].focus();
    }

    /** Go to the criteria, or one step on; after the last one the verdict is next. */
    function advance(by = 1) {
      if (!steps.length) return false;
      if (by < 0 && at < 0) at = steps.length - 1;
      else at = at + by >= steps.length ? -1 : Math.max(0, at + by);
      paint();
      return true;
    }

    /** The first that the verdict waits for, made the one at hand; null when there is none. */
    function missing() {
      const step = steps.find((other) => other.isRequired && !isAnswered(other)) ?? null;
      if (step) {
        at = steps.indexOf(step);
        paint();
        step.node.scrollIntoView({ block: "nearest" });
      }
      return step;
    }

    function paint() {
      steps.forEach((step, i) => {
        const is = chosen(step);
        step.node.toggleAttribute("data-current", i === at);
        [...step.node.querySelectorAll(".ws-option")].forEach((button, k) => {
          button.setAttribute("aria-checked", String(k === is));
          // One stop for Tab in each group: the chosen one, else the first.
          button.tabIndex = k === Math.max(0, is) ? 0 : -1;
        });
      });
    }

    return {
      show,
      clear,
      onDigit,
      advance,
      missing,
      get isPending() {
        return at >= 0;
      },
    };
  };
})();
