import type { VNode } from "preact";
import type { Cut } from "./api";

// eslint-disable-next-line no-control-regex
const SGR = /\x1b\[([\d;:]*)m/g;
// Control characters, and those that turn the direction of what follows: shown, never obeyed.
// eslint-disable-next-line no-control-regex
const ODD = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\u{e0000}-\u{e007f}]/gu;

interface Look { color: string | null; ground: string | null; bold: boolean; faint: boolean; italic: boolean; underline: boolean; inverse: boolean }
const PLAIN: Look = { color: null, ground: null, bold: false, faint: false, italic: false, underline: false, inverse: false };

/** One of a terminal's 256 colours: a class for the first 16, which follow the page's theme, else a value. */
function indexed(code: number): string {
  if (code < 16) return `ansi${code % 8}`;
  if (code > 231) return `rgb(${Array(3).fill(8 + 10 * (code - 232)).join(" ")})`;
  const levels = [0, 95, 135, 175, 215, 255];
  const at = code - 16;
  return `rgb(${levels[Math.floor(at / 36)]} ${levels[Math.floor(at / 6) % 6]} ${levels[at % 6]})`;
}

/** The colour that follows a code 38 or 48, and how many numbers it took. */
function extended(codes: number[]): [string | null, number] {
  if (codes[0] === 5 && codes[1] >= 0 && codes[1] < 256) return [indexed(codes[1]), 2];
  if (codes[0] === 2 && codes.slice(1, 4).length === 3 && codes.slice(1, 4).every((one) => one >= 0 && one < 256)) return [`rgb(${codes.slice(1, 4).join(" ")})`, 4];
  return [null, codes.length];
}

/** Applies the codes of one ANSI sequence: colours, weight and the like; all others say nothing here. */
function applied(look: Look, text: string): Look {
  let next = look;
  const codes = text.split(/[;:]/).map(Number);
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at];
    if (code === 0) next = PLAIN;
    else if (code === 1) next = { ...next, bold: true };
    else if (code === 2) next = { ...next, faint: true };
    else if (code === 3) next = { ...next, italic: true };
    else if (code === 4) next = { ...next, underline: true };
    else if (code === 7) next = { ...next, inverse: true };
    else if (code === 22) next = { ...next, bold: false, faint: false };
    else if (code === 23) next = { ...next, italic: false };
    else if (code === 24) next = { ...next, underline: false };
    else if (code === 27) next = { ...next, inverse: false };
    else if (code >= 30 && code <= 37) next = { ...next, color: `ansi${code - 30}` };
    else if (code >= 90 && code <= 97) next = { ...next, color: `ansi${code - 90}` };
    else if (code === 39) next = { ...next, color: null };
    else if (code >= 40 && code <= 47) next = { ...next, ground: `ansi${code - 40}` };
    else if (code >= 100 && code <= 107) next = { ...next, ground: `ansi${code - 100}` };
    else if (code === 49) next = { ...next, ground: null };
    else if (code === 38 || code === 48) {
      const [color, taken] = extended(codes.slice(at + 1));
      next = code === 38 ? { ...next, color } : { ...next, ground: color };
      at += taken;
    }
  }
  return next;
}

/** Whether white is read better than black on a colour, `rgb(R G B)`: the brightness that the eye has of it. */
function isDark(color: string): boolean {
  const [red, green, blue] = color.match(/\d+/g)!.map(Number);
  return 0.299 * red + 0.587 * green + 0.114 * blue < 140;
}

/** What a look is on the page. */
function dressed(look: Look): { class: string; style?: Record<string, string> } {
  const names: string[] = (["bold", "faint", "italic", "underline", "inverse"] as const).filter((name) => look[name]);
  const style: Record<string, string> = {};
  if (look.color?.startsWith("ansi")) names.push(look.color);
  else if (look.color) { style.color = look.color; names.push("exact"); }
  if (look.ground?.startsWith("ansi")) names.push(`on-${look.ground}`);
  else if (look.ground) {
    style.backgroundColor = look.ground;
    style.color ??= isDark(look.ground) ? "#ffffff" : "#000000";
  }
  return Object.keys(style).length ? { class: names.join(" "), style } : { class: names.join(" ") };
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
  let look = PLAIN;
  let last = 0;
  const add = (part: string) => {
    if (!part) return;
    if (look === PLAIN) out.push(...pieces(part));
    else out.push(<span {...dressed(look)}>{pieces(part)}</span>);
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
