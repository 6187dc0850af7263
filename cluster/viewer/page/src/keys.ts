import { useLayoutEffect, useRef } from "preact/hooks";

/** Keys that do something on a page, but for where somebody writes. */
export function useKeys(keys: Record<string, () => void>): void {
  const latest = useRef(keys);
  latest.current = keys; // before the page shows what they act on: a key may be pressed at once
  useLayoutEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
      const act = latest.current[event.key];
      if (act) { event.preventDefault(); act(); }
    };
    window.addEventListener("keydown", pressed);
    return () => window.removeEventListener("keydown", pressed);
  }, []);
}
