import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

/** Keys that do something on a page, but for where somebody writes. */
export function useKeys(keys: Record<string, () => void>): void {
  const latest = useRef(keys);
  latest.current = keys; // before the page shows what they act on: a key may be pressed at once
  useLayoutEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
      if (event.key === "Enter" && /^(A|BUTTON|SUMMARY)$/.test(target.tagName)) return; // it presses what has the focus
      const act = latest.current[event.key];
      if (act) { event.preventDefault(); act(); }
    };
    window.addEventListener("keydown", pressed);
    return () => window.removeEventListener("keydown", pressed);
  }, []);
}

/** The row of a table that j and k have come to, and Enter opens; -1: none yet. */
export function useRow(count: number, open: (row: number) => void): [number, (row: number) => void] {
  const [row, show] = useState(-1);
  const latest = useRef(-1); // of which the page may not show all yet: keys come faster than it is drawn
  const setRow = (next: number) => { latest.current = next; show(next); };
  useKeys({
    j: () => setRow(Math.min(count - 1, latest.current + 1)),
    k: () => setRow(Math.max(0, latest.current - 1)),
    Enter: () => { if (latest.current >= 0 && latest.current < count) open(latest.current); },
  });
  useEffect(() => { if (row >= 0) document.querySelector("tr.current")?.scrollIntoView({ block: "nearest" }); }, [row]);
  return [row, setRow];
}

/** Copies the page's address; a page that is not served from this machine has no clipboard of its own. */
export async function copyLink(): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(location.href);
  const field = document.createElement("textarea");
  field.value = location.href;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new Error("the browser lets no page copy");
}
