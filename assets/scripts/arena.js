/* The arena: own prompts, two responses that come as they are written, turn after turn.
 *
 * The server knows where a conversation stands; this browser keeps what was typed and not yet
 * answered, and a verdict until it is on its way. Nothing here knows where a response comes from.
 */
"use strict";

(() => {
  const { call, el, say, t, uuid, wait, backoff, deferred, remembered, locale, clipboard } = Whetstone;
  const { keys, outbox, guidelines, drafts, reading, makeStopwatch, VERDICTS } = Whetstone;

  const SCROLLS = { down: 0.15, up: -0.15, page_down: 0.9, page_up: -0.9 };
  const NOTES = ["why", "flag", "rewrite"];
  const OF_ITEM = new Set([...Object.keys(VERDICTS), ...NOTES, "criteria"]);
  const OF_PAGE = new Set([...Object.keys(SCROLLS), "undo", "raw", "diff", "keys"]);
  const NARROW = matchMedia("(max-width: 720px)");
  const OWN = new Set(["new", "list", "again", "message"]);

  Whetstone.arena = (() => {
    let root = null;
    let part = {};
    let bodies = [];
    let owner = null;
    let conversation = null; // as the server tells it; null while nothing was asked
    let sides = []; // {text, html, isDone, node}
    let phase = "loading"; // loading, empty, sending, writing, ready, settling, asking, judged
    let goOnWith = null; // after a verdict that names no better response
    let following = null; // AbortController of the stream
    let note = null; // () => text
    let isInView = false;
    let isLoading = false; // the policy; it answers when it is there
    let item = null; // the turn, as answers and notes take it; null when there is none to judge
    let lacking = null; // the criterion that the verdict waits for, once it was tried
    const given = new Map(); // judgment id -> the draft that it was made of, or null
    const stopwatch = makeStopwatch();
    const answers = Whetstone.makeAnswers();
    const notes = Whetstone.makeNotes();
    const skip = Whetstone.makeSkip((said) => judge("skip", said));
    const keyList = Whetstone.makeKeyList();

    function mount(element) {
      root = element.querySelector(".ws-arena");
      part = {};
      for (const node of root.querySelectorAll("[data-part]")) part[node.dataset.part] = node;
      bodies = [...root.querySelectorAll(".ws-arena-body")];
      for (const button of root.querySelectorAll("[data-act]")) {
        button.addEventListener("click", (event) => {
          if (event.detail > 1 && button.dataset.act in VERDICTS) return;
          act(button.dataset.act, button);
        });
      }
      for (const button of root.querySelectorAll("[data-example]")) {
        button.addEventListener("click", () => ask(t(`arena.example_${button.dataset.example}`)));
      }
      notes.mount(root, part);
      placeCriteria();
      NARROW.addEventListener("change", placeCriteria);
      skip.mount(part);
      keyList.mount(part.keys, part.keys_said);
      for (const dialog of [part.skip, part.list, part.keys]) {
        dialog.addEventListener("click", (event) => {
          if (event.target === dialog) dialog.close();
        });
      }
      part.composer.addEventListener("submit", (event) => {
        event.preventDefault();
        ask(part.text.value);
      });
      part.text.addEventListener("keydown", onComposerKey);
      part.text.addEventListener("input", () => {
        keepDraft();
        fitComposer();
      });
      new IntersectionObserver(([entry]) => {
        const wasInView = isInView;
        isInView = entry.isIntersecting;
        watchTime();
        if (isInView && !wasInView) look();
      }).observe(root);
      locale.translate(root);
      keys.print(root);
      open();
      paint();
    }

    /** On a narrow page they scroll with the responses, which need the room. */
    function placeCriteria() {
      if (NARROW.matches) part.columns.after(part.criteria);
      else part.bar.before(part.criteria);
    }

    /** Once it is known who is here: back to where the person was. */
    function open() {
      if (!root || !outbox.owner || owner === outbox.owner) return;
      owner = outbox.owner;
      if (keys.isScale(Whetstone.me?.scale)) root.dataset.scale = Whetstone.me.scale;
      const id = remembered.get(openKey());
      if (id) load(id);
      else start();
    }

    /** The page comes to the front: another window or My work may have changed the verdict. */
    function look() {
      if (conversation && ["ready", "judged", "asking"].includes(phase) && !outbox.unsent().length) {
        load(conversation.id, { isQuiet: true });
      }
      if (isComposing()) focusComposer();
    }

    // What this browser keeps

    const openKey = () => `arena.open.${owner}`;
    const draftKey = (id = conversation?.id) => `arena.draft.${owner}.${id ?? "new"}`;
    const sentKey = () => `arena.sent.${owner}`;
    const verdictKey = () => `arena.verdict.${owner}`;

    function keepDraft() {
      const text = part.text.value;
      if (text) remembered.set(draftKey(), text);
      else remembered.remove(draftKey());
    }

    function kept(key) {
      try {
        return JSON.parse(remembered.get(key));
      } catch {
        return null;
      }
    }

    function showDraft() {
      part.text.value = remembered.get(draftKey()) ?? "";
      fitComposer();
    }

    /** What was sent and got no responses goes back where it was typed. */
    function giveBack() {
      const sent = kept(sentKey());
      if (!sent) return false;
      remembered.remove(sentKey());
      if (!remembered.get(draftKey())) remembered.set(draftKey(), sent.text);
      return true;
    }

    // Where a conversation stands

    function start() {
      leave();
      conversation = null;
      goOnWith = null;
      remembered.remove(openKey());
      if (giveBack()) tell(() => t("arena.given_back"));
      become("empty");
      showDraft();
    }

    async function load(id, { isQuiet = false } = {}) {
      leave();
      if (!isQuiet) become("loading");
      for (let attempt = 0; ; attempt++) {
        try {
          const found = await call("GET", `/api/arena/conversations/${id}`);
          if (isQuiet && phase !== "ready" && phase !== "judged" && phase !== "asking") return;
          show(found);
          return;
        } catch (error) {
          if (isQuiet) return;
          if (error.isFinal) {
            start();
            return;
          }
          tell(() => t(error.isSignedOut ? "banner.signed_out.zero" : "unreachable.title"));
          await wait(backoff(attempt));
          if (phase !== "loading") return;
        }
      }
    }

    /** Show what the server says of a conversation. */
    function show(found) {
      conversation = found;
      remembered.set(openKey(), found.id);
      const { turn } = found;
      if (settlePending(turn)) return;
      const isSame = sides.length === 2 && turn.responses.every((r, place) => r.text === sides[place]?.text);
      if (!isSame) sides = turn.responses.map(doneSide);
      if (turn.state === "writing") {
        sides = [blankSide(), blankSide()];
        goOnWith = null;
        tell(null);
        become("writing");
        stopwatch.reset();
        watchTime();
        follow(turn.id);
        return;
      }
      const sent = kept(sentKey());
      if (sent && sent.number > turn.number && giveBack()) tell(() => t("arena.given_back"));
      else remembered.remove(sentKey());
      goOnWith = turn.said ? (turn.said.next_place ?? keptChoice()) : null;
      become(!turn.said ? "ready" : goOnWith === null ? "asking" : "judged");
      showDraft();
    }

    const blankSide = () => ({ text: "", html: null, isDone: false, node: null });
    const doneSide = ({ text, html }) => ({ text, html, isDone: true, node: null });

    /** Which response the person went on from, kept until the next turn records it. */
    const choiceKey = () => `arena.choice.${owner}`;
    function keptChoice() {
      const choice = kept(choiceKey());
      return choice?.turn === conversation.turn.id ? choice.place : null;
    }

    // Asking

    async function ask(given) {
      const text = given.trim();
      if (!text || !isComposing() || !owner) return;
      const id = conversation?.id ?? null;
      remembered.set(sentKey(), JSON.stringify({ text, number: (conversation?.turn.number ?? 0) + 1 }));
      remembered.remove(draftKey());
      tell(null);
      become("sending");
      try {
        await verdictIsSaved();
        const found = await call("POST", "/api/arena/turns", {
          text,
          conversation_id: id,
          go_on_with: goOnWith,
        });
        part.text.value = "";
        show(found);
      } catch (error) {
        giveBack();
        become(conversation ? "judged" : "empty");
        showDraft();
        tell(() => (error.isUnreachable ? t("unreachable.title") : error.message));
      }
    }

    /** The server goes on from what was judged, so that has to be there first. */
    async function verdictIsSaved() {
      const id = conversation?.turn.said?.judgment_id;
      const op = id && outbox.find(id);
      if (!op) return;
      if (op.problem) throw new Error(op.problem);
      await Promise.race([outbox.replyTo(id), wait(20_000)]);
      if (outbox.find(id)) throw new Error(t("unreachable.title"));
    }

    async function again() {
      if (!["writing", "ready", "asking"].includes(phase)) return;
      const { turn, messages } = conversation;
      leave();
      drafts.forget(turn.lease_id);
      remembered.set(sentKey(), JSON.stringify({ text: messages.at(-1).text, number: turn.number }));
      try {
        show(await call("POST", `/api/arena/turns/${turn.id}/again`));
      } catch (error) {
        await load(conversation.id);
        tell(() => (error.isUnreachable ? t("unreachable.title") : error.message));
      }
    }

    async function stop() {
      if (phase !== "writing") return;
      try {
        await call("POST", `/api/arena/turns/${conversation.turn.id}/stop`);
      } catch {
        /* It ended by itself, or the stream will tell. */
      }
    }

    // The stream

    function leave() {
      following?.abort();
      following = null;
    }

    /** Read a turn to its end, over broken connections and a restarted server. */
    async function follow(turnId) {
      leave();
      const mine = (following = new AbortController());
      for (let attempt = 0; following === mine; attempt++) {
        try {
          const isOver = await read(turnId, mine);
          if (isOver || following !== mine) return;
        } catch (error) {
          if (following !== mine) return;
          if (error.status >= 400 && error.status < 500) {
            await load(conversation.id);
            return;
          }
          tell(() => t("arena.broken"));
        }
        await wait(backoff(attempt));
      }
    }

    async function read(turnId, mine) {
      const reply = await fetch(`/api/arena/turns/${turnId}/stream`, { cache: "no-store", signal: mine.signal });
      if (!reply.ok) throw Object.assign(new Error(), { status: reply.status });
      const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      let isFirst = true;
      for (;;) {
        const { value, done } = await reader.read();
        if (following !== mine) return true;
        if (done) return false;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (!line.trim()) continue;
          if (isFirst) restart();
          isFirst = false;
          if (take(JSON.parse(line))) return true;
        }
      }
    }

    /** A stream tells all from the beginning. */
    function restart() {
      if (note) tell(null);
      sides = [blankSide(), blankSide()];
      paintSides();
    }

    /** One line of the stream; whether it was the last. */
    function take(line) {
      if (line.ready) {
        conversation.turn.state = "ready";
        conversation.turn.lease_id = line.lease_id;
        conversation.turn.responses = sides.map(({ text, html }) => ({ text, html }));
        remembered.remove(sentKey());
        following = null;
        become("ready");
        say(t("arena.ready"));
        return true;
      }
      if (line.problem) {
        following = null;
        fail(line);
        return true;
      }
      isLoading = Boolean(line.waiting);
      if (isLoading) {
        paintHint();
        return false;
      }
      const side = sides[line.place];
      if (line.again) {
        Object.assign(side, blankSide());
        paintSide(line.place);
        tell(() => t(line.place ? "arena.again_b" : "arena.again_a"));
      } else if (line.done) {
        Object.assign(side, { text: line.text, html: line.html, isDone: true });
        paintSide(line.place);
      } else {
        side.text += line.text;
        if (side.node) side.node.firstChild.appendData(line.text);
        else paintSide(line.place);
      }
      paintHint();
      return false;
    }

    /** No responses: the message is back in the composer, the conversation where it was. */
    async function fail({ problem, text, limit_tokens: n }) {
      drafts.forget(conversation.turn.lease_id);
      const why = () => {
        const known = t(`arena.problem_${problem}`, { n });
        return text ? `${known} ${text}` : known;
      };
      try {
        const found = await call("GET", `/api/arena/conversations/${conversation.id}`);
        show(found);
      } catch {
        start();
      }
      tell(why);
    }

    // Judging

    function judge(choice, said = { ...VERDICTS[choice] }) {
      if (!item) return;
      if (sides.some(({ text }) => !text.trim())) {
        tell(() => t("arena.wait_first"));
        return;
      }
      const missing = choice === "skip" ? null : answers.missing();
      if (missing) {
        lacking = missing.name;
        paintHint();
        say(part.hint.textContent);
        // The hint may have taken the room that it was scrolled into.
        missing.node.scrollIntoView({ block: "nearest" });
        return;
      }
      notes.tidy();
      const verdict = {
        said,
        notes: drafts.notesOf(item),
        lease_id: item.lease_id,
        duration_ms: stopwatch.read(),
        guidelines_version: guidelines.version,
      };
      if (phase === "ready") {
        commit(verdict, conversation.turn);
        return;
      }
      leave();
      const seen = sides.map(({ text }) => [...text].length);
      const pending = { turn: conversation.turn.id, conversation: conversation.id, seen, verdict };
      remembered.set(verdictKey(), JSON.stringify(pending));
      settle(pending);
    }

    /** What was seen becomes what is judged; the verdict is kept until that is so. */
    async function settle(pending) {
      become("settling");
      for (let attempt = 0; ; attempt++) {
        try {
          const { turn } = await call("POST", `/api/arena/turns/${pending.turn}/settle`, { seen: pending.seen });
          remembered.remove(verdictKey());
          remembered.remove(sentKey());
          conversation.turn = turn;
          sides = turn.responses.map(doneSide);
          if (turn.said) show(conversation);
          else commit(pending.verdict, turn);
          return;
        } catch (error) {
          if (error.isFinal) {
            remembered.remove(verdictKey());
            await load(pending.conversation);
            tell(() => error.message);
            return;
          }
          tell(() => t("arena.verdict_kept"));
          await wait(backoff(attempt));
        }
      }
    }

    /** A verdict that was given before this page was loaded, on a turn that was not there yet. */
    function settlePending(turn) {
      const pending = kept(verdictKey());
      if (!pending) return false;
      if (pending.conversation !== conversation.id || turn.said) {
        remembered.remove(verdictKey());
        return false;
      }
      sides = turn.state === "writing" ? [blankSide(), blankSide()] : turn.responses.map(doneSide);
      settle(pending);
      return true;
    }

    /** `lease_id` is that of the turn as it was being written; only a part of it may be judged. */
    function commit({ said, notes: noted, lease_id, duration_ms, guidelines_version }, turn) {
      const id = uuid();
      outbox.add("judgment", id, { lease_id: turn.lease_id, ...said, ...noted, duration_ms, guidelines_version });
      given.set(id, drafts.take({ lease_id }));
      const { verdict, place, strength } = said;
      // After a tie a coin says which goes on; the server tosses the same one.
      const nextPlace = verdict === "tie" ? id.charCodeAt(id.length - 1) % 2 : place;
      turn.state = "judged";
      turn.said = { judgment_id: id, verdict, place, strength, next_place: nextPlace };
      goOnWith = nextPlace;
      become(goOnWith === null ? "asking" : "judged");
      tellVerdict();
      showDraft();
      outbox.replyTo(id).then((reply) => reply?.revealed && reveal(id, reply.revealed));
    }

    /** Who wrote what, where the project says so, once the verdict is in. */
    function reveal(judgmentId, names) {
      if (conversation?.turn.said?.judgment_id !== judgmentId) return;
      const said = names.map((name, place) => t("reveal.one", { letter: "AB"[place], name })).join(" · ");
      tell(() => t("reveal.all", { names: said }));
    }

    const spoken = (choice) => t(choice === "skip" ? "verdict.skipped" : `verdict.${choice}`);

    function tellVerdict() {
      const { said } = conversation.turn;
      const choice = Object.keys(VERDICTS).find(
        (name) => VERDICTS[name].verdict === said.verdict && VERDICTS[name].place === said.place && VERDICTS[name].strength === said.strength,
      );
      tell(() => {
        const last = t("verdict.last", { verdict: spoken(choice) });
        return goOnWith === null ? last : `${last} · ${t("arena.goes_on", { letter: "AB"[goOnWith] })}`;
      });
    }

    function choose(place) {
      if (phase !== "asking") return;
      goOnWith = place;
      remembered.set(choiceKey(), JSON.stringify({ turn: conversation.turn.id, place }));
      become("judged");
      tellVerdict();
    }

    async function undo() {
      const said = conversation?.turn.said;
      if (!said || !["judged", "asking"].includes(phase)) return;
      const op = outbox.find(said.judgment_id);
      remembered.remove(choiceKey());
      let reply = null;
      if (op && (!op.tried || op.problem)) outbox.forget(op);
      else {
        const id = uuid();
        reply = outbox.replyTo(id);
        outbox.add("undo", id, { judgment_id: said.judgment_id });
      }
      conversation.turn.said = null;
      conversation.turn.state = "ready";
      goOnWith = null;
      drafts.putBack(itemOf(conversation), given.get(said.judgment_id));
      become("ready");
      if (!given.has(said.judgment_id)) fetchNotes(said.judgment_id);
      tell(() => t("say.restored"));
      stopwatch.reset();
      watchTime();
      if (reply && (await reply) === null) load(conversation.id);
    }

    /** What was said beside a verdict that was given before this page was loaded. */
    async function fetchNotes(judgmentId) {
      const undone = item;
      try {
        const { said } = await call("GET", `/api/judging/judgments/${judgmentId}`);
        if (item !== undone || drafts.has(undone.lease_id)) return;
        drafts.putBack(undone, drafts.fromSaid(undone, said));
        showItem();
      } catch {
        /* The verdict can be given anew without them. */
      }
    }

    // Acting

    function act(name, button = null) {
      if (name === "skip") item && skip.open();
      else if (name in VERDICTS) judge(name);
      else if (name === "criteria") answers.advance();
      else if (NOTES.includes(name)) notes.toggle(name);
      else if (name === "close_notes") notes.close();
      else if (name === "drop_rewrite") notes.drop();
      else if (name === "raw") reading.toggleRaw();
      else if (name === "diff") reading.toggleDiff();
      else if (name === "keys") keyList.show();
      else if (name in SCROLLS) scrollBy(SCROLLS[name]);
      else if (name.startsWith("copy_")) clipboard.copy(sides[Number(name.slice(-1))]?.text ?? "", button);
      else if (name === "stop") stop();
      else if (name === "again") again();
      else if (name === "undo") undo();
      else if (name === "new") startAnew();
      else if (name === "list") openList();
      else if (name.startsWith("go_on_")) choose(Number(name.slice(-1)));
      else if (name === "close") button.closest("dialog").close();
    }

    function startAnew() {
      if (!owner || phase === "sending" || phase === "settling") return;
      start();
      tell(null);
      focusComposer();
    }

    function onComposerKey(event) {
      // 229 is what an input method still works on, also where `isComposing` is late.
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") part.text.blur();
      if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (!event.repeat) ask(part.text.value);
    }

    function onKey(event) {
      if (!isInFront() || event.defaultPrevented || event.isComposing) return;
      if (event.target.closest?.("input, textarea, select, [contenteditable]:not([contenteditable=false])")) return;
      if (document.querySelector("dialog[open]") || event.altKey) return;
      const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !event.shiftKey;
      if ((event.ctrlKey || event.metaKey) && !isUndo) return;
      const key = keys.read(event);
      const isOnTab = event.target.closest?.("[role=tab], [data-wide]");
      if (key.startsWith("Arrow") && (isOnTab || !item)) return;
      if (!event.repeat && item && !isOnTab && onAnswerKey(key)) {
        event.preventDefault();
        return;
      }
      const name = isUndo ? "undo" : actOf(key);
      if (!name || (event.repeat && !(name in SCROLLS))) return;
      event.preventDefault();
      if (name === "message") focusComposer();
      else act(name);
    }

    /** Numbers answer the criterion at hand; whether the key was taken. */
    function onAnswerKey(key) {
      if (key === "Backspace") return answers.advance(-1);
      return /^[1-9]$/.test(key) && answers.onDigit(key);
    }

    function actOf(key) {
      if (phase === "asking" && ["1", "2"].includes(key)) return { 1: "go_on_0", 2: "go_on_1" }[key];
      const name = keys.actionOf(key, item ? root.dataset.scale : undefined);
      if (OF_PAGE.has(name) || (item && OF_ITEM.has(name))) return name;
      if (item && key === "Escape") return "stop";
      const own = keys.actionOf(key, "arena");
      return OWN.has(own) ? own : undefined;
    }

    // Earlier conversations

    async function openList() {
      part.list_items.replaceChildren();
      part.list_note.textContent = t("arena.list_loading");
      part.list.showModal();
      try {
        const found = (await call("GET", "/api/arena/conversations")).conversations;
        part.list_note.textContent = found.length ? "" : t("arena.list_empty");
        part.list_items.replaceChildren(...found.map(line));
      } catch (error) {
        part.list_note.textContent = error.isUnreachable ? t("unreachable.title") : error.message;
      }
    }

    function line({ id, title, turns, updated_at: at }) {
      const when = new Date(at).toLocaleString(locale.tag(), { dateStyle: "medium", timeStyle: "short" });
      const onclick = () => {
        part.list.close();
        if (phase === "sending" || phase === "settling") return;
        tell(null);
        load(id);
      };
      return el(
        "li",
        {},
        el(
          "button",
          { type: "button", class: "ws-choice", onclick, "aria-current": id === conversation?.id ? "true" : null },
          el("span", { class: "ws-arena-title", dir: "auto" }, title),
          el("span", { class: "ws-quiet" }, `${locale.plural("arena.turns", turns)} · ${when}`),
        ),
      );
    }

    // Painting

    const isInFront = () => Boolean(root?.isConnected && root.offsetParent !== null);
    const isComposing = () => phase === "empty" || phase === "judged";
    const watchTime = () =>
      stopwatch.run(!document.hidden && isInView && ["writing", "ready"].includes(phase) && sides.some(({ text }) => text));

    function become(next) {
      const isSeen = phase === "writing" || phase === "settling" || phase === next;
      phase = next;
      paint();
      if (next !== "settling" && !(isSeen && (next === "ready" || next === "asking"))) scroll();
    }

    function tell(words) {
      note = words;
      paintNote();
      if (words) say(words());
    }

    function paint() {
      if (!root) return;
      root.dataset.state = phase;
      const hasColumns = ["writing", "ready", "settling", "asking"].includes(phase);
      part.empty.hidden = phase !== "empty";
      part.columns.hidden = !hasColumns;
      part.bar.hidden = !["writing", "ready", "settling"].includes(phase);
      part.ask.hidden = phase !== "asking";
      part.composer.hidden = !["empty", "judged", "sending"].includes(phase);
      part.text.readOnly = part.send.disabled = phase === "sending";
      root.querySelector("[data-act=stop]").hidden = phase !== "writing";
      paintMessages();
      paintSides();
      paintItem();
      paintHint();
      paintNote();
      paintStatus();
      if (phase === "judged" || phase === "empty") focusComposer();
    }

    /** To what was said last; two responses are read from their beginning, so what they answer. */
    function scroll() {
      const last = part.messages.lastElementChild;
      const isReading = !part.columns.hidden && last;
      part.scroll.scrollTop = isReading ? last.offsetTop - part.scroll.offsetTop - 8 : part.scroll.scrollHeight;
    }

    function scrollBy(screens) {
      part.scroll.scrollBy({ top: screens * part.scroll.clientHeight, behavior: "instant" });
    }

    function focusComposer() {
      if (!isInFront() || !isComposing() || document.querySelector("dialog[open]")) return;
      // A keyboard that slides in unasked hides what was just written.
      if (matchMedia("(hover: none)").matches) return;
      part.text.focus({ preventScroll: true });
    }

    function paintMessages() {
      const messages = [...(conversation?.messages ?? [])];
      if (conversation && ["judged", "sending"].includes(phase) && goOnWith !== null) {
        messages.push({ role: "assistant", ...sides[goOnWith] });
      }
      if (phase === "sending") messages.push({ role: "user", text: kept(sentKey())?.text ?? "", html: null });
      part.messages.replaceChildren(...messages.map(turnNode));
    }

    function turnNode({ role, html, text }) {
      const name = el("div", { class: "ws-role", "data-ui-lang": true, lang: locale.tag(), "data-t": `role.${role}` }, t(`role.${role}`));
      return el("div", { class: "ws-turn", "data-role": role }, name, proseNode(html, text));
    }

    function proseNode(html, text) {
      const node = el("div", { class: "ws-prose", dir: "auto", lang: conversation?.language ?? null });
      if (html === null) {
        node.classList.add("ws-growing");
        node.append(document.createTextNode(text));
      } else Whetstone.prose.fill(node, html);
      return node;
    }

    /** What is said beside a verdict belongs to one turn, from its first words to the verdict. */
    function paintItem() {
      const isOpen = phase === "writing" || phase === "ready";
      const shown = isOpen ? itemOf(conversation) : null;
      if (shown?.lease_id === item?.lease_id) return;
      item = shown;
      showItem();
    }

    const itemOf = ({ turn, language, messages }) => ({
      lease_id: turn.lease_id,
      language,
      messages,
      get responses() {
        return sides;
      },
    });

    function showItem() {
      lacking = null;
      notes.show(item);
      paintAnswers();
    }

    function paintAnswers() {
      const places = { box: part.criteria, feet: [] };
      if (item) answers.show(item, { ...places, isRating: false, whenDone: lackNothing });
      else answers.clear(places);
    }

    function lackNothing() {
      lacking = null;
      paintHint();
    }

    function paintSides() {
      const areDone = sides.length > 0 && sides.every(({ isDone }) => isDone);
      const done = areDone ? doneNodes(sides) : [];
      bodies.forEach((_, place) => paintSide(place, done[place]));
      reading.press(root);
    }

    const doneNodes = (responses) =>
      reading.bodies(
        { responses, language: conversation?.language ?? null },
        responses.map(({ html, text }) => proseNode(html, text)),
      );

    /** Text that is still written is one text node that grows; all else is drawn once, at its end. */
    function paintSide(place, done = null) {
      const side = sides[place];
      const section = bodies[place].closest(".ws-response");
      section.toggleAttribute("data-writing", Boolean(side) && !side.isDone && phase === "writing");
      section.setAttribute("aria-busy", String(Boolean(side) && !side.isDone));
      if (!side) {
        bodies[place].replaceChildren();
        return;
      }
      side.node = side.isDone ? null : proseNode(null, side.text);
      bodies[place].replaceChildren(side.node ?? done ?? doneNodes([side])[0]);
    }

    function paintHint() {
      const isShort = phase === "writing" && sides.some(({ text }) => !text.trim());
      const writing = !isShort ? "arena.judge_early" : isLoading ? "arena.loading" : "arena.writing";
      const hint = { writing, settling: "arena.settling" }[phase];
      const text = lacking ? t("criteria.missing", { name: lacking }) : hint ? t(hint) : "";
      if (part.hint.textContent !== text) part.hint.textContent = text;
      for (const button of root.querySelectorAll("[data-needs-item]")) {
        const { act: name } = button.dataset;
        const isOff = name.startsWith("copy_") ? isShort : !item || (name in VERDICTS && isShort);
        button.setAttribute("aria-disabled", String(isOff));
      }
      watchTime();
    }

    function paintNote() {
      if (!root) return;
      const canUndo = Boolean(conversation?.turn.said) && ["judged", "asking"].includes(phase);
      part.note_text.textContent = note ? note() : "";
      part.undo.hidden = !canUndo;
      part.note.hidden = !note && !canUndo;
    }

    function paintStatus() {
      if (!root) return;
      const n = outbox.unsent().length;
      const state = n === 0 ? (outbox.state === "signed_out" ? "signed_out" : "saved") : outbox.state;
      const key = { saved: "saved", idle: "saving", sending: "saving" }[state] ?? state;
      part.status.dataset.state = key;
      part.status_text.textContent = t(`status.${key}`, { n });
      root.dataset.unsent = String(n);
    }

    function fitComposer() {
      part.text.style.height = "auto";
      part.text.style.height = `${Math.min(part.text.scrollHeight + 2, 220)}px`;
    }

    outbox.onChange(
      deferred(() => {
        open();
        paintStatus();
      }),
    );
    keys.onChange(() => root && keys.print(root));
    reading.onChange(() => root && paintSides());
    locale.onChange(() => {
      if (!root) return;
      locale.translate(root);
      part.text.placeholder = t("arena.placeholder");
      paintMessages();
      paintAnswers();
      paintHint();
      paintNote();
      paintStatus();
    });
    document.addEventListener("keydown", onKey);
    document.addEventListener("visibilitychange", () => {
      watchTime();
      if (!document.hidden && isInView) look();
    });

    return { mount };
  })();
})();
