/* Notes on an item beside its verdict: why, flags, and a rewrite; each in a panel that a key opens. */
"use strict";

(() => {
  const { el, t, deferred, locale, drafts } = Whetstone;

  const KINDS = ["unsafe", "off_topic", "wrong_language", "personal_data"];
  const PANELS = ["why", "flag", "rewrite"];
  const LETTERS = "ABCDEFGHI";

  /** For one page: its panels, and the buttons in its bar that open them. */
  Whetstone.makeNotes = () => {
    let root = null;
    let part = {};
    let item = null;
    let open = null; // why, flag, rewrite

    function mount(page, parts) {
      root = page;
      part = parts;
      part.why_text.addEventListener("input", () => {
        drafts.change(item, (draft) => {
          draft.rationale = part.why_text.value;
        });
        paintButtons();
      });
      part.rewrite_text.addEventListener("input", () => {
        drafts.change(item, (draft) => {
          draft.rewrite = { text: part.rewrite_text.value, place: draft.rewrite?.place ?? null };
        });
        paintDiffSoon();
        paintButtons();
      });
      part.notes.addEventListener("keydown", (event) => {
        const isDone = event.key === "Escape" || (event.key === "Enter" && (event.ctrlKey || event.metaKey));
        if (!isDone || event.isComposing) return;
        event.preventDefault();
        event.stopPropagation();
        close();
      });
    }

    /** Another item is shown, or none. */
    function show(shown) {
      item = shown;
      if (open) close();
      paintButtons();
    }

    function toggle(name) {
      if (!item) return;
      if (open === name) {
        close();
        return;
      }
      open = name;
      part.notes.hidden = false;
      for (const panel of PANELS) part[`${panel}_panel`].hidden = panel !== name;
      if (name === "why") paintWhy();
      else if (name === "flag") paintFlags();
      else paintRewrite();
      paintButtons();
      const first = name === "rewrite" && !part.rewrite_edit.hidden ? part.rewrite_text : null;
      (first ?? part[`${name}_panel`].querySelector("button, textarea"))?.focus({ preventScroll: true });
      part.notes.scrollIntoView({ block: "nearest" });
    }

    function close() {
      open = null;
      part.notes.hidden = true;
      if (part.notes.contains(document.activeElement)) document.activeElement.blur();
      paintButtons();
    }

    // Why

    function paintWhy() {
      const draft = drafts.of(item);
      const offered = Whetstone.me?.reasons ?? [];
      const reasons = [...new Set([...offered, ...draft.reasons])];
      part.why_reasons.hidden = !reasons.length;
      part.why_reasons.replaceChildren(
        ...reasons.map((reason) =>
          chip(reason, draft.reasons.includes(reason), () =>
            drafts.change(item, (fresh) => {
              fresh.reasons = toggled(fresh.reasons, reason);
            }),
          ),
        ),
      );
      part.why_text.value = draft.rationale;
    }

    const toggled = (list, value) =>
      list.includes(value) ? list.filter((other) => other !== value) : [...list, value];

    function chip(text, isOn, action, label = null) {
      const button = el("button", { type: "button", class: "ws-chip-button", "aria-pressed": String(isOn), "aria-label": label, dir: "auto" }, text);
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        action();
        paintButtons();
      });
      return button;
    }

    // Flags

    function paintFlags() {
      const draft = drafts.of(item);
      const places = [null, ...item.responses.map((_, place) => place)];
      part.flag_rows.replaceChildren(
        ...places.map((place) => {
          const name = place === null ? t("flag.prompt") : t("ranking.response", { letter: LETTERS[place] });
          return el(
            "div",
            { class: "ws-flag-row", role: "group", "aria-label": name },
            el("span", { class: "ws-flag-name" }, name),
            ...KINDS.map((kind) => {
              const is = (flag) => flag.kind === kind && flag.place === place;
              return chip(t(`flag.${kind}`), draft.flags.some(is), () =>
                drafts.change(item, (fresh) => {
                  fresh.flags = fresh.flags.some(is) ? fresh.flags.filter((flag) => !is(flag)) : [...fresh.flags, { kind, place }];
                }),
              );
            }),
          );
        }),
      );
    }

    // Rewrite

    function paintRewrite() {
      const draft = drafts.of(item);
      const place = draft.rewrite ? draft.rewrite.place : undefined;
      const from = (of, label) =>
        el("button", { type: "button", class: "ws-chip-button", "aria-pressed": String(place === of), onclick: () => startFrom(of) }, label);
      part.rewrite_from.replaceChildren(
        ...item.responses.map((_, of) => from(of, t("rewrite.from", { letter: LETTERS[of] }))),
        from(null, t("rewrite.anew")),
      );
      part.rewrite_edit.hidden = place === undefined;
      part.rewrite_text.value = draft.rewrite?.text ?? "";
      part.rewrite_text.lang = item.language;
      part.rewrite_diff.lang = item.language;
      part.rewrite_drop.hidden = place === undefined;
      paintDiff();
    }

    /** What was typed is kept when only the original changes; an untouched text follows it. */
    function startFrom(place) {
      const { rewrite } = drafts.of(item);
      const original = place === null ? "" : item.responses[place].text;
      const was = rewrite && rewrite.place !== null ? item.responses[rewrite.place].text : "";
      const isTyped = rewrite && rewrite.text.trim() && rewrite.text !== was;
      drafts.change(item, (draft) => {
        draft.rewrite = { text: isTyped ? rewrite.text : original, place };
      });
      paintRewrite();
      paintButtons();
      part.rewrite_text.focus({ preventScroll: true });
    }

    function drop() {
      drafts.change(item, (draft) => {
        draft.rewrite = null;
      });
      paintRewrite();
      paintButtons();
    }

    const paintDiffSoon = deferred(() => open === "rewrite" && paintDiff());

    function paintDiff() {
      const { rewrite } = drafts.of(item);
      const hasOriginal = rewrite && rewrite.place !== null;
      part.rewrite_diff.hidden = !hasOriginal;
      if (!hasOriginal) return;
      const original = item.responses[rewrite.place].text;
      if (original === rewrite.text) {
        part.rewrite_diff.replaceChildren(el("span", { class: "ws-quiet" }, t("rewrite.unchanged")));
        return;
      }
      const tags = { removed: "del", added: "ins" };
      part.rewrite_diff.replaceChildren(
        ...Whetstone.diff
          .merge(original, rewrite.text, item.language)
          .map(({ kind, text }) => (kind === "same" ? text : el(tags[kind], {}, text))),
      );
    }

    /** A rewrite that says the same as its original says nothing; it is not sent. */
    function tidy() {
      const { rewrite } = drafts.of(item);
      if (!rewrite) return;
      const original = rewrite.place === null ? "" : item.responses[rewrite.place].text;
      if (rewrite.text.trim() === original.trim()) {
        drafts.change(item, (draft) => {
          draft.rewrite = null;
        });
      }
    }

    function paintButtons() {
      if (!root) return;
      const draft = item ? drafts.of(item) : null;
      const has = {
        why: draft && (draft.reasons.length || draft.rationale.trim()),
        flag: draft?.flags.length,
        rewrite: draft?.rewrite,
      };
      for (const name of PANELS) {
        for (const button of root.querySelectorAll(`.ws-bar-tools [data-act=${name}]`)) {
          button.toggleAttribute("data-has", Boolean(has[name]));
          button.setAttribute("aria-expanded", String(open === name));
        }
      }
    }

    locale.onChange(() => {
      if (open === "flag") paintFlags();
      if (open === "rewrite") paintRewrite();
    });

    return { mount, show, toggle, close, drop, tidy };
  };
})();
