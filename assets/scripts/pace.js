/* One's own pace: the sitting, the streak, a goal for the day, and a hint to rest.
 *
 * The sitting and the goal are kept in this browser and told to nobody.
 */
"use strict";

(() => {
  const { t, say, remembered, locale, outbox, supply } = Whetstone;

  const MINUTE_MS = 60_000;
  const SITTING_ENDS_MS = 15 * MINUTE_MS;
  const BREAK_MS = 5 * MINUTE_MS;
  const WORK_MS = 50 * MINUTE_MS;
  const HINT_EVERY_MS = 60 * MINUTE_MS;
  const MIN_ITEMS = 10;
  const MAX_GOAL = 5000;

  Whetstone.pace = (() => {
    let part = {};

    const key = (name) => `${name}.${outbox.owner}`;

    /** {startedAt, lastAt, n, workSince, hintedAt}: several windows of a person share one. */
    function sitting() {
      try {
        return JSON.parse(remembered.get(key("sitting")) ?? "null");
      } catch {
        return null;
      }
    }

    const isOver = (now, is) => is === null || now - is.lastAt > SITTING_ENDS_MS;

    function mount(parts) {
      part = parts;
      part.goal.addEventListener("change", () => setGoal(part.goal.value));
      part.pace_box.addEventListener("toggle", (event) => {
        if (event.newState !== "open") return;
        place();
        paint();
      });
    }

    /** Below its button, and within the window. */
    function place() {
      const button = part.figures.getBoundingClientRect();
      const box = part.pace_box;
      const left = Math.min(button.right, innerWidth - 12) - box.offsetWidth;
      box.style.left = `${Math.max(12, left)}px`;
      box.style.top = `${button.bottom + 6}px`;
    }

    /** A judgment was made now, after `durationMs` of looking at it. Not on the judging path. */
    function count(durationMs) {
      const now = Date.now();
      setTimeout(() => {
        const began = now - durationMs;
        let is = sitting();
        const gap = is ? began - is.lastAt : Infinity;
        if (gap > SITTING_ENDS_MS) is = { startedAt: began, n: 0, hintedAt: is?.hintedAt ?? 0 };
        if (gap > BREAK_MS) {
          is.workSince = began;
          part.rest.hidden = true;
        }
        Object.assign(is, { n: is.n + 1, lastAt: now });
        if (now - is.workSince >= WORK_MS && now - is.hintedAt >= HINT_EVERY_MS) {
          is.hintedAt = now;
          part.rest.hidden = false;
          say(t("rest.hint"));
        }
        remembered.set(key("sitting"), JSON.stringify(is));
        paint();
      });
    }

    /** The newest judgment was taken back. */
    function uncount() {
      const is = sitting();
      if (!is) return;
      remembered.set(key("sitting"), JSON.stringify({ ...is, n: Math.max(0, is.n - 1) }));
      paint();
    }

    /** Items an hour in this sitting; null while they would say nothing. */
    function perHour(is) {
      if (isOver(Date.now(), is) || is.n < MIN_ITEMS || is.lastAt <= is.startedAt) return null;
      return Math.round(is.n / ((is.lastAt - is.startedAt) / (60 * MINUTE_MS)));
    }

    const goal = () => Number(remembered.get(key("goal"))) || 0;

    function setGoal(value) {
      const n = Math.min(MAX_GOAL, Math.max(0, Math.round(Number(value)) || 0));
      if (n) remembered.set(key("goal"), String(n));
      else remembered.remove(key("goal"));
      paint();
    }

    /** How many the server does not know yet; they count as soon as they are made. */
    const waiting = () =>
      outbox.unsent().filter(
        (op) => op.kind === "judgment" && op.body.verdict !== "skipped" && !op.isPractice && !op.body.supersedes,
      ).length;

    const seconds = (n) => (n < 10 ? n.toFixed(1) : String(Math.round(n)));

    function paint() {
      const { progress } = supply;
      if (!progress || !part.figures) return;
      const is = sitting();
      const rate = perHour(is);
      const each = progress.median_duration_s;
      const n = progress.judged_by_me_today + waiting();
      part.figures.hidden = false;
      part.today.textContent = t("progress.today", { n });
      part.today_short.textContent = t("progress.today_short", { n });
      part.pace.textContent = each == null ? "" : t("progress.pace", { n: seconds(each) });
      part.rate.textContent = rate === null ? "" : t("progress.rate", { n: rate });
      part.streak.textContent = progress.streak_days > 1 ? locale.plural("progress.streak", progress.streak_days) : "";
      part.own_bar.hidden = !goal();
      part.own_bar.max = goal() || 1;
      part.own_bar.value = n;
      if (part.pace_box.matches(":popover-open")) paintBox(progress, is, { n, rate, each });
    }

    function paintBox(progress, is, { n, rate, each }) {
      const minutes = isOver(Date.now(), is) ? 0 : Math.round((Date.now() - is.startedAt) / MINUTE_MS);
      const figures = {
        today: goal() ? t("pace.of_goal", { n, goal: goal() }) : String(n),
        each: each == null ? "–" : t("pace.seconds", { n: seconds(each) }),
        sitting: isOver(Date.now(), is) ? "–" : t("pace.sitting_is", { n: is.n, minutes }),
        rate: rate === null ? t("pace.rate_later", { n: MIN_ITEMS }) : t("pace.rate_is", { n: rate }),
        streak: locale.plural("pace.streak_is", progress.streak_days),
        all: (progress.judged_by_me + waiting()).toLocaleString(locale.tag()),
      };
      for (const [name, text] of Object.entries(figures)) part[`pace_${name}`].textContent = text;
      if (document.activeElement !== part.goal) part.goal.value = goal() || "";
    }

    function endRest() {
      part.rest.hidden = true;
    }

    locale.onChange(paint);

    return { mount, paint, count, uncount, endRest };
  })();
})();
