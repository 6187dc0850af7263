import type { VNode } from "preact";
import type { Cut } from "./api";

// eslint-disable-next-line no-control-regex
const SGR = /\x1b\[([\d;]*)m/g;
// Control characters, and those that turn the direction of what follows: shown, never obeyed.
// eslint-disable-next-line no-control-regex
const ODD = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/gu;

interface Look { color: number | null; bold: boolean }

/** Applies the codes of one ANSI sequence: colours and weight; all others say nothing here. */
function applied(look: Look, codes: string): Look {
  let next = look;
  for (const code of codes.split(";").map(Number)) {
    if (code === 0) next = { color: null, bold: false };
    else if (code === 1) next = { ...next, bold: true };
    else if (code === 22) next = { ...next, bold: false };
    else if (code >= 30 && code <= 37) next = { ...next, color: code - 30 };
    else if (code >= 90 && code <= 97) next = { ...next, color: code - 90 };
    else if (code === 39) next = { ...next, color: null };
  }
  return next;
}

function pieces(text: string): (string | VNode)[] {
  const out: (string | VNode)[] = [];
  let last = 0;
  for (const odd of text.matchAll(ODD)) {
    if (odd[0] === "\r" && text[odd.index + 1] === "\n") continue;
    out.push(text.slice(last, odd.index));
    const code = odd[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
    out.push(<span class="odd" title={`U+${code}`}>{code === "001B" ? "ESC" : code}</span>);
    last = odd.index + odd[0].length;
  }
  out.push(text.slice(last));
  return out;
}

/** A text of whoever wrote it, as text: with terminal colours, and what is odd in it made visible. */
export function Plain({ text }: { text: string }) {
  if (!text.includes("\x1b[")) return <>{pieces(text)}</>;
  const out: (string | VNode)[] = [];
  let look: Look = { color: null, bold: false };
  let last = 0;
  const add = (part: string) => {
    if (!part) return;
    if (look.color === null && !look.bold) out.push(...pieces(part));
    else out.push(<span class={`${look.color === null ? "" : `ansi${look.color}`}${look.bold ? " bold" : ""}`}>{pieces(part)}</span>);
  };
  for (const found of text.matchAll(SGR)) {
    add(text.slice(last, found.index));
    look = applied(look, found[1]);
    last = found.index + found[0].length;
  }
  add(text.slice(last));
  return <>{out}</>;
}

function pretty(text: string): string {
  if (!/^\s*[{[]/.test(text)) return text;
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

interface Props { cut: Cut | null | undefined; marks?: [number, number][]; beyond?: number; whole?: string; json?: boolean; empty?: string }

/** A text in a box that scrolls; the injected parts are marked, and the rest of a long one is a click away. */
export function Text({ cut, marks = [], beyond = 0, whole, json, empty }: Props) {
  if (!cut || cut.text === "") return empty ? <p class="dim small">{empty}</p> : null;
  const parts: VNode[] = [];
  let last = 0;
  const complete = cut.text.length >= cut.length;
  const text = json && complete && !marks.length ? pretty(cut.text) : cut.text;
  for (const [start, end] of marks) {
    parts.push(<Plain text={text.slice(last, start)} />);
    parts.push(<mark class="injected" title="Put there by the attack"><Plain text={text.slice(start, end)} /></mark>);
    last = end;
  }
  parts.push(<Plain text={text.slice(last)} />);
  return (
    <>
      <pre class="text" dir="auto" tabIndex={text.length > 1500 ? 0 : undefined}>{parts}</pre>
      {!complete && (
        <p class="small dim">
          The first {cut.text.length.toLocaleString("en")} of {cut.length.toLocaleString("en")} characters
          {whole && !window.KUMITE_REPORT && <>; <a href={whole} target="_blank" rel="noreferrer">all of them</a></>}.
        </p>
      )}
      {beyond > 0 && <p class="small danger">The injection stands {beyond}× in the part that is not shown.</p>}
    </>
  );
}
