/* Which words of two texts the other one lacks: a longest common subsequence of words.
 *
 * Knows texts only; drawing is the page's business. */
"use strict";

Whetstone.diff = (() => {
  const MOST_CELLS = 4_000_000; // of the table below: two texts of 2,000 words

  /** Two lists, for `a` and for `b`, of {text, isShared}; joined, they are the texts again. */
  function compare(a, b, language) {
    const { left, right, pairs } = align(a, b, language);
    const shared = { left: new Set(), right: new Set() };
    for (const [i, j] of pairs) {
      shared.left.add(i);
      shared.right.add(j);
    }
    return [gather(left, shared.left), gather(right, shared.right)];
  }

  /** One list of {text, kind: "same"|"removed"|"added"} that leads from `a` to `b`. */
  function merge(a, b, language) {
    const { left, right, pairs } = align(a, b, language);
    const pieces = [];
    const add = (kind, text) => {
      if (!text) return;
      if (pieces.at(-1)?.kind === kind) pieces.at(-1).text += text;
      else pieces.push({ kind, text });
    };
    let [i, j] = [0, 0];
    for (const [nextI, nextJ] of [...pairs, [left.length, right.length]]) {
      add("removed", left.slice(i, nextI).join(""));
      add("added", right.slice(j, nextJ).join(""));
      add("same", left[nextI] ?? "");
      [i, j] = [nextI + 1, nextJ + 1];
    }
    return pieces;
  }

  /** The words of both texts, and the pairs [i, j] of those that they share, in order. */
  function align(a, b, language) {
    const [left, right] = [words(a, language), words(b, language)];
    const pairs = [];
    let start = 0;
    let [endLeft, endRight] = [left.length, right.length];
    for (; start < endLeft && start < endRight && left[start] === right[start]; start++) {
      pairs.push([start, start]);
    }
    const tail = [];
    while (endLeft > start && endRight > start && left[endLeft - 1] === right[endRight - 1]) {
      tail.push([--endLeft, --endRight]);
    }
    if ((endLeft - start) * (endRight - start) <= MOST_CELLS) {
      shareMiddle(left.slice(start, endLeft), right.slice(start, endRight), (i, j) =>
        pairs.push([start + i, start + j]),
      );
    }
    return { left, right, pairs: [...pairs, ...tail.reverse()] };
  }

  function words(text, language) {
    if (!("Segmenter" in Intl)) return text.split(/(\s+)/).filter(Boolean);
    const segmenter = new Intl.Segmenter(language, { granularity: "word" });
    return [...segmenter.segment(text)].map((piece) => piece.segment);
  }

  function shareMiddle(left, right, share) {
    const width = right.length + 1;
    const longest = new Uint16Array((left.length + 1) * width);
    for (let i = left.length - 1; i >= 0; i--) {
      for (let j = right.length - 1; j >= 0; j--) {
        longest[i * width + j] =
          left[i] === right[j]
            ? longest[(i + 1) * width + j + 1] + 1
            : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      }
    }
    for (let i = 0, j = 0; i < left.length && j < right.length; ) {
      if (left[i] === right[j]) share(i++, j++);
      else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
      else j++;
    }
  }

  /** Neighbours of one kind become one piece; white space alone is no difference. */
  function gather(found, shared) {
    const pieces = [];
    found.forEach((text, place) => {
      const isShared = shared.has(place) || !text.trim();
      const last = pieces.at(-1);
      if (last?.isShared === isShared) last.text += text;
      else pieces.push({ text, isShared });
    });
    return pieces;
  }

  return { compare, merge };
})();
