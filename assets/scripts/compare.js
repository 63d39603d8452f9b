/* The compare page. Nothing here knows where a response comes from. */
"use strict";

(() => {
  const { el, say, t, clipboard, deferred, locale, keys, outbox } = Whetstone;
  const { supply, guidelines, drafts, judging, stopwatch, reading, ranking, VERDICTS } = Whetstone;
  const { practice, pace, tour } = Whetstone;

  const SCROLLS = { down: 0.15, up: -0.15, page_down: 0.9, page_up: -0.9 };

  Whetstone.compare = (() => {
    let root = null;
    let part = {};
    let shown; // undefined until something was painted, null when there is nothing
    let prepared = new WeakMap(); // item -> its nodes, built while the one before is read
    let isScrolled = false;
    let isInView = false;
    let isExpanded = false;
    let isRestoring = false;
    let flashTimer = 0;
    let note = () => "";
    let confirmed = null; // the item whose unchanged order was asked about
    const answers = Whetstone.makeAnswers();
    const notes = Whetstone.makeNotes();
    const skip = Whetstone.makeSkip((said) => send("skip", said));
    const keyList = Whetstone.makeKeyList();

    /** Follow what the project asks for. */
    function setProject() {
      if (root && keys.isScale(Whetstone.me?.scale)) root.dataset.scale = Whetstone.me.scale;
      if (shown) repaint();
    }

    /** What is done with an item: choose between two, rank three and more, or rate each. */
    function kindOf(item) {
      const n = item.responses.length;
      if (n === 1 || Whetstone.me?.task === "rate") return "rating";
      return n === 2 ? "pair" : "ranking";
    }

    function mount(element) {
      root = element.querySelector(".ws-compare");
      if (Whetstone.me) setProject();
      part = {};
      for (const node of root.querySelectorAll("[data-part]")) part[node.dataset.part] = node;
      part.bodies = [...root.querySelectorAll(".ws-columns > .ws-response .ws-response-body")];
      part.feet = [...root.querySelectorAll(".ws-columns > .ws-response .ws-response-foot")];
      shown = undefined;
      for (const button of root.querySelectorAll("[data-act]")) {
        button.addEventListener("click", (event) => {
          // The second half of a double click would judge an item that nobody has read.
          const isVerdict = button.dataset.act in VERDICTS || button.dataset.act === "submit";
          if (event.detail > 1 && isVerdict) return;
          // After a click Space should scroll again, not judge again.
          if (event.detail > 0 && isVerdict) button.blur();
          act(button.dataset.act, button);
        });
      }
      for (const dialog of [part.skip, part.keys, part.guidelines]) {
        dialog.addEventListener("click", (event) => {
          if (event.target === dialog) dialog.close();
        });
      }
      linkScrolling(part.bodies);
      notes.mount(root, part);
      skip.mount(part);
      practice.mount(root, part);
      pace.mount(part);
      keyList.mount(part.keys, part.keys_said);
      tour.mount(root, part);
      keys.print(root);
      new IntersectionObserver(([entry]) => {
        isInView = entry.isIntersecting;
        watchTime();
        if (isInView) offerTour();
      }).observe(root);
      locale.translate(root);
      paint();
      paintGuidelines();
      paintStatus();
    }

    const paintStatusSoon = deferred(paintStatus);
    const isInFront = () => Boolean(root?.isConnected && root.offsetParent !== null);
    const watchTime = () => stopwatch.run(!document.hidden && isInView && Boolean(shown));

    // Acting

    function act(name, button = null) {
      const isVerdict = name in VERDICTS || name === "submit";
      if (isVerdict && supply.current) tour.end();
      if (practice.isAnswered(shown) && actOnAnswered(name, isVerdict)) return;
      if (name in VERDICTS) {
        if (!supply.current || isRestoring) return;
        if (name === "skip") skip.open();
        else if (isReady(name)) send(name);
      } else if (name === "submit") submit();
      else if (name === "later") goOn();
      else if (name === "keep") judging.keep();
      else if (name === "undo") judging.undo();
      else if (name === "criteria") answers.advance();
      else if (["why", "flag", "rewrite"].includes(name)) notes.toggle(name);
      else if (name === "close_notes") notes.close();
      else if (name === "drop_rewrite") notes.drop();
      else if (name === "raw") reading.toggleRaw();
      else if (name === "diff") reading.toggleDiff();
      else if (name === "expand") toggleExpanded();
      else if (name === "keys") keyList.show();
      else if (name === "tour") startTour();
      else if (name === "rested") pace.endRest();
      else if (name === "guidelines") guidelines.open(part);
      else if (name === "close") button.closest("dialog").close();
      else if (name in SCROLLS) scrollResponses(SCROLLS[name]);
      else if (name.startsWith("copy") && shown) clipboard.copy(shown.responses[Number(name.slice(-1))].text, button);
      else if (name === "retry_aside") outbox.retryAside();
      else if (name === "forget_aside") outbox.forgetAside();
    }

    /** A practice item with its feedback: a verdict goes on, and nothing else is left to say of it. */
    function actOnAnswered(name, isVerdict) {
      if (isVerdict || name === "later" || name === "practice_next") practice.goOn();
      else if (name === "undo") tell("practice.no_undo");
      else return ["criteria", "why", "flag", "rewrite"].includes(name);
      return true;
    }

    const offerTour = () => isInView && shown && tour.offer();

    function startTour() {
      if (part.keys.open) part.keys.close();
      part.pace_box.hidePopover();
      if (shown) tour.start();
      else tell("tour.later");
    }

    /** Whether all is answered that a verdict waits for; else it says what is missing. */
    function isReady(name) {
      const isPair = kindOf(shown) === "pair";
      if (name === "not_rankable" ? kindOf(shown) !== "ranking" : !isPair) return false;
      const missing = name === "not_rankable" ? null : answers.missing();
      if (missing) tell("criteria.missing", t("criteria.missing", { name: missing.name ?? t("rating.label") }));
      return !missing;
    }

    function send(choice, said) {
      notes.tidy();
      judging.judge(choice, said);
    }

    /** The ranking or the ratings as they stand. */
    function submit() {
      if (!supply.current || isRestoring) return;
      const kind = kindOf(shown);
      const missing = answers.missing();
      if (kind === "pair") return;
      if (missing) {
        tell("criteria.missing", t("criteria.missing", { name: missing.name ?? t("rating.label") }));
        return;
      }
      if (kind === "rating") {
        const scale = Whetstone.me?.rating_scale ?? "five_point";
        send("rated", { verdict: "rated", ratings: drafts.of(shown).ratings, rating_scale: scale });
        return;
      }
      // Nobody has touched it: asked once, so that a hasty Enter is no judgment.
      if (ranking.isUntouched && confirmed !== shown) {
        confirmed = shown;
        tell("ranking.unchanged");
        return;
      }
      if (drafts.of(shown).order.length < 2) {
        tell("ranking.too_few");
        return;
      }
      send("ranked", { verdict: "ranked", ranks: ranking.ranks() });
    }

    function goOn() {
      if (supply.later()) tell("say.later");
      else tell("say.no_other");
    }

    function onKey(event) {
      if (!isInFront() || event.defaultPrevented || event.isComposing || event.keyCode === 229) return;
      const target = event.target;
      const isTyping = target.closest?.("input, textarea, select, [contenteditable]:not([contenteditable=false])");
      if (isTyping || document.querySelector("dialog[open]")) return;
      if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
        if (event.key.toLowerCase() !== "z" || event.repeat) return;
        event.preventDefault();
        act("undo");
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      // A held Enter on a focused button would judge item after item.
      if (event.repeat && (event.key === "Enter" || event.key === " ") && root.contains(target)) {
        event.preventDefault();
        return;
      }
      if (tour.onKey(event)) {
        event.preventDefault();
        return;
      }
      const key = keys.read(event);
      if (shown && !isRestoring && onItemKey(event, key)) {
        event.preventDefault();
        return;
      }
      if (event.shiftKey && key.startsWith("Arrow")) return;
      const kind = shown ? kindOf(shown) : "pair";
      const name = keys.actionOf(key, { pair: root.dataset.scale, ranking: "list" }[kind]);
      if (!name) return;
      const isScroll = name in SCROLLS;
      const isArrow = event.key.startsWith("Arrow");
      // Arrows belong to whatever has the focus and understands them.
      if (isArrow && target.closest?.("[role=tab], [data-wide], .ws-conversation-text")) return;
      if (isScroll && !canScrollResponses()) return;
      if (event.repeat && !isScroll) return;
      event.preventDefault();
      act(name);
    }

    /** Keys whose meaning is the item's: numbers for what is to be answered, Enter, the list. */
    function onItemKey(event, key) {
      if (key === "Escape" && judging.isCorrecting(shown)) {
        judging.keep();
        return true;
      }
      const kind = kindOf(shown);
      const action = keys.actionOf(key, kind === "ranking" ? "list" : undefined);
      if (event.repeat && !["down", "up"].includes(action)) return false;
      const isOnButton = event.target.closest?.("button, a, summary");
      if (key === "Enter" && practice.isAnswered(shown) && !isOnButton) {
        practice.goOn();
        return true;
      }
      if (key === "Enter" && kind !== "pair" && !isOnButton) {
        submit();
        return true;
      }
      if (event.target.closest?.("[role=tab], [data-wide], .ws-conversation-text")) return false;
      if (/^[1-9]$/.test(key) && answers.onDigit(key)) return true;
      if (key === "Backspace") return answers.advance(-1);
      if (isList() && event.target.closest?.("textarea, input") == null) return ranking.onKey(event, key, action);
      return false;
    }

    const isList = () => shown !== null && shown !== undefined && shown.responses.length > 2;

    function toggleExpanded() {
      if (isList()) ranking.unfoldCurrent();
      isExpanded = !isExpanded;
      paintFold();
    }

    // Scrolling

    function linkScrolling(bodies) {
      let driver = null;
      let release = 0;
      for (const body of bodies) {
        body.addEventListener(
          "scroll",
          () => {
            isScrolled = true;
            if (driver !== null && driver !== body) return;
            driver = body;
            clearTimeout(release);
            release = setTimeout(() => {
              driver = null;
            }, 80);
            const far = body.scrollHeight - body.clientHeight;
            const share = far > 0 ? body.scrollTop / far : 0;
            for (const other of bodies) {
              if (other !== body) {
                other.scrollTop = share * (other.scrollHeight - other.clientHeight);
              }
            }
          },
          { passive: true },
        );
      }
    }

    const longest = () =>
      isList() ? part.columns : part.bodies.reduce((a, b) => (a.scrollHeight - a.clientHeight >= b.scrollHeight - b.clientHeight ? a : b));

    function canScrollResponses() {
      const body = longest();
      return body.scrollHeight > body.clientHeight + 1 && getComputedStyle(body).overflowY === "auto";
    }

    function scrollResponses(screens) {
      const body = longest();
      body.scrollBy({ top: screens * body.clientHeight, behavior: "instant" });
    }

    // Painting

    function paint() {
      if (!root) return;
      const item = isRestoring ? null : supply.current;
      root.dataset.state = item ? "ready" : isRestoring ? "restoring" : supply.trouble.kind;
      for (const button of root.querySelectorAll("[data-needs-item]")) {
        button.setAttribute("aria-disabled", String(!item));
      }
      if (item !== shown) {
        shown = item;
        if (item) paintItem(item);
        else paintEmpty();
        stopwatch.reset();
        watchTime();
      } else if (!item) paintNotice();
    }

    function paintItem(item) {
      const nodes = prepared.get(item) ?? prepare(item);
      const kind = kindOf(item);
      isExpanded = false;
      root.dataset.kind = kind;
      root.dataset.count = String(item.responses.length);
      part.notice.hidden = true;
      part.messages.replaceChildren(...nodes.turns);
      if (isList()) ranking.show(part.list, item, bodiesOf(item), { isRanking: kind === "ranking" });
      else {
        if (!part.list.hidden) ranking.clear();
        paintResponses(item);
      }
      part.list.hidden = !isList();
      answers.show(item, {
        box: part.criteria,
        feet: isList() ? ranking.feet() : part.feet,
        isRating: kind === "rating",
        whenDone: () => kind === "rating" && act("submit"),
      });
      notes.show(item);
      practice.show(item);
      paintCorrection(item);
      part.turns.textContent =
        item.messages.length > 1 ? t("conversation.turns", { n: item.messages.length }) : "";
      requestAnimationFrame(settleLayout);
      whenIdle(() => {
        const next = supply.following;
        if (next && !prepared.has(next)) prepare(next);
      });
    }

    function paintCorrection(item) {
      const isCorrecting = item !== null && judging.isCorrecting(item);
      part.correcting.hidden = !isCorrecting;
      const said = isCorrecting ? item.said : null;
      for (const button of root.querySelectorAll(".ws-verdict")) {
        const verdict = VERDICTS[button.dataset.act];
        const is = said && verdict?.verdict === said.verdict && verdict.place === said.place && verdict.strength === said.strength;
        button.toggleAttribute("data-said", Boolean(is));
      }
    }

    function repaint() {
      if (!shown) return;
      const item = shown;
      prepared = new WeakMap();
      paintItem(item);
    }

    function paintGuidelines() {
      if (!root) return;
      part.guidelines_button.hidden = guidelines.version === null;
      part.guidelines_button.toggleAttribute("data-unread", guidelines.isUnread);
    }

    const whenIdle = (action) =>
      "requestIdleCallback" in window ? requestIdleCallback(action) : setTimeout(action, 50);

    /** Measuring forces a layout, so it is done once, in the frame that paints the item. */
    function settleLayout() {
      if (isScrolled) for (const body of part.bodies) body.scrollTop = 0;
      isScrolled = false;
      if (isList()) {
        part.columns.scrollTop = 0;
        ranking.fold();
      }
      if (root.getBoundingClientRect().top < 0) root.scrollIntoView({ block: "start" });
      paintFold();
    }

    function prepare(item) {
      const nodes = {
        turns: item.messages.map((message) => turn(message, item.language)),
        responses: item.responses.map((response) => {
          const prose = el("div", { class: "ws-prose", dir: "auto", lang: item.language });
          Whetstone.prose.fill(prose, response.html);
          return prose;
        }),
      };
      prepared.set(item, nodes);
      return nodes;
    }

    function turn(message, language) {
      const known = ["user", "assistant", "system", "tool"].includes(message.role);
      const role = el("div", { class: "ws-role", "data-ui-lang": true, lang: locale.tag() });
      role.textContent = known ? t(`role.${message.role}`) : message.role;
      if (known) role.dataset.t = `role.${message.role}`;
      const text = el("div", { class: "ws-prose", lang: language, dir: "auto" });
      Whetstone.prose.fill(text, message.html);
      return el("div", { class: "ws-turn", "data-role": message.role }, role, text);
    }

    const bodiesOf = (item) => reading.bodies(item, prepared.get(item).responses);

    function paintResponses(item) {
      const bodies = bodiesOf(item);
      if (isList()) {
        ranking.bodies().forEach((node, place) => node.replaceChildren(bodies[place]));
        ranking.fold();
      } else bodies.forEach((body, place) => part.bodies[place].replaceChildren(body));
      reading.press(root);
    }

    function paintFold() {
      const box = part.conversation;
      const text = part.conversation_text;
      if (box.dataset.expanded !== String(isExpanded)) box.dataset.expanded = String(isExpanded);
      const [height, inside] = [text.clientHeight, text.scrollHeight];
      const isLong = inside > height + 2;
      const last = part.messages.lastElementChild;
      // Of a long conversation the last turn is what was answered.
      const lastTop = isLong && !isExpanded && last ? last.offsetTop - text.offsetTop : 0;
      const top = Math.min(lastTop, inside - height);
      if (text.scrollTop !== top) text.scrollTop = top;
      markFadedEdges(top, height, inside);
      part.expand.hidden = !isLong && !isExpanded;
      part.expand.setAttribute("aria-expanded", String(isExpanded));
      const label = part.expand.querySelector("[data-t]");
      label.dataset.t = isExpanded ? "conversation.show_less" : "conversation.show_all";
      label.textContent = t(label.dataset.t);
    }

    function markFadedEdges(top, height, inside) {
      part.conversation.dataset.above = String(top > 2);
      part.conversation.dataset.below = String(top + height < inside - 2);
    }

    const skeleton = (...widths) =>
      el(
        "div",
        { class: "ws-skeleton", "aria-hidden": "true" },
        ...widths.map((width) => {
          const line = el("span");
          line.style.width = `${width}%`;
          return line;
        }),
      );

    function paintEmpty() {
      ranking.clear();
      part.list.hidden = true;
      answers.clear({ box: part.criteria, feet: part.feet });
      notes.show(null);
      practice.show(null);
      paintCorrection(null);
      part.messages.replaceChildren(skeleton(18, 62));
      part.turns.textContent = "";
      part.expand.hidden = true;
      part.conversation.dataset.above = part.conversation.dataset.below = "false";
      for (const body of part.bodies) {
        body.replaceChildren(skeleton(92, 86, 95, 64));
      }
      paintNotice();
    }

    function paintNotice() {
      const kind = root.dataset.state;
      const { text } = supply.trouble;
      const [title, body] = {
        loading: ["waiting.title", t("waiting.loading")],
        restoring: ["waiting.title", t("waiting.restoring")],
        waiting: ["waiting.title", text],
        empty: ["empty.title", t("empty.body")],
        unreachable: ["unreachable.title", t("unreachable.body")],
        problem: ["problem.title", text],
        signed_out: ["banner.sign_in", outbox.unsent().length ? "" : t("banner.signed_out.zero")],
      }[kind] ?? ["waiting.title", ""];
      const wasHidden = part.notice.hidden;
      const heading = t(title);
      part.notice_title.textContent = heading;
      if (part.notice_body.textContent !== body) part.notice_body.textContent = body;
      part.notice.hidden = false;
      if (wasHidden && kind !== "loading") say(`${heading}. ${body}`);
    }

    function paintProgress() {
      part.project.textContent = Whetstone.me?.project ?? "";
      const progress = supply.progress;
      if (!progress) return;
      const { judged, goal } = progress;
      part.bar.max = goal;
      part.bar.value = judged;
      part.count.textContent = t("progress.count", { judged, goal });
      pace.paint();
      offerTour();
    }

    // A judgment that is saved at once needs no flicker; one that takes longer is shown.
    let savingTimer = 0;
    let wasOffline = false;

    function paintStatus() {
      if (!root) return;
      const n = outbox.unsent().length;
      const state = n === 0 ? (outbox.state === "signed_out" ? "signed_out" : "saved") : outbox.state;
      root.dataset.unsent = String(n);
      const key = { saved: "saved", idle: "saving", sending: "saving" }[state] ?? state;
      clearTimeout(savingTimer);
      const draw = () => {
        part.status.dataset.state = key;
        part.status_text.textContent = t(`status.${key}`, { n });
      };
      if (key === "saving" && part.status.dataset.state === "saved") savingTimer = setTimeout(draw, 400);
      else draw();
      if ((key === "offline" || key === "busy") && !wasOffline) {
        wasOffline = true;
        say(t("say.offline"));
      } else if (key === "saved" && wasOffline) {
        wasOffline = false;
        say(t("say.online"));
      }
      paintBanners(n);
      paintProgress();
    }

    function paintBanners(n) {
      const isSignedOut = outbox.state === "signed_out" || supply.trouble.kind === "signed_out";
      part.signed_out.hidden = !isSignedOut;
      if (isSignedOut) part.signed_out_text.textContent = locale.plural("banner.signed_out", n);
      const aside = outbox.aside();
      part.aside.hidden = !aside.length;
      if (aside.length) {
        const reasons = [...new Set(aside.map((op) => op.problem))].join(" ");
        part.aside_text.textContent = `${locale.plural("banner.set_aside", aside.length)} ${reasons}`;
      }
      part.memory_only.hidden = !(outbox.isMemoryOnly && n > 0);
      const { others } = outbox;
      part.others.hidden = !others.length;
      part.others.textContent = others
        .map(([name, count]) => locale.plural("banner.others", count, { name }))
        .join(" ");
    }

    /** Show what was chosen, beside an item that is already the next one unless it `stays`. */
    function confirm(choice, { stays = false } = {}) {
      confirmed = null;
      note = () => t("verdict.last", { verdict: spoken(choice) });
      part.last.textContent = note();
      root.dataset.unsent = String(outbox.unsent().length);
      clearTimeout(flashTimer);
      for (const button of root.querySelectorAll("[data-flash]")) delete button.dataset.flash;
      for (const button of root.querySelectorAll(`.ws-bar [data-act=${choice}]`)) {
        button.dataset.flash = "";
      }
      flashTimer = setTimeout(() => {
        for (const button of root.querySelectorAll("[data-flash]")) delete button.dataset.flash;
      }, 260);
      if (!stays) say(t("say.next", { verdict: spoken(choice) }));
    }

    const spoken = (choice) => t(choice === "skip" ? "verdict.skipped" : `verdict.${choice}`);

    /** A short note at the verdict bar, for eyes and screen readers alike. */
    function tell(key, text = null) {
      note = () => text ?? t(key);
      part.last.textContent = note();
      say(note());
    }

    /** Which policy wrote what, once the verdict is in and where the project says so. */
    function reveal(names) {
      const letters = "ABCDEFGHI";
      const said = names.map((name, place) => t("reveal.one", { letter: letters[place], name }));
      tell("", t("reveal.all", { names: said.join(" · ") }));
    }

    function restore(on) {
      isRestoring = on;
      paint();
    }

    function retranslate() {
      if (!root) return;
      locale.translate(root);
      part.last.textContent = note();
      if (shown) {
        part.turns.textContent =
          shown.messages.length > 1 ? t("conversation.turns", { n: shown.messages.length }) : "";
      } else paintNotice();
      if (shown) repaint();
      paintStatus();
    }

    supply.onChange(() => {
      paint();
      paintStatusSoon();
    });
    guidelines.onChange(paintGuidelines);
    reading.onChange(() => shown && paintResponses(shown));
    keys.onChange(() => root && keys.print(root));
    outbox.onChange(paintStatusSoon);
    locale.onChange(retranslate);
    document.addEventListener("keydown", onKey);
    document.addEventListener("visibilitychange", watchTime);
    document.addEventListener(
      "scroll",
      (event) => {
        const text = part.conversation_text;
        if (event.target === text) {
          markFadedEdges(text.scrollTop, text.clientHeight, text.scrollHeight);
        }
      },
      { capture: true, passive: true },
    );

    return {
      mount,
      setProject,
      repaint,
      confirm,
      tell,
      reveal,
      restore,
      get isRestoring() {
        return isRestoring;
      },
    };
  })();
})();
