import { useEffect, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { get } from "./api";

export interface Loaded<T> { value: T | null; error: string | null; stale: boolean }

/** What the server answers to a path; the answer before stays until the next one is there. */
export function useAnswer<T>(path: string | null, again: unknown = 0): Loaded<T> {
  const [loaded, setLoaded] = useState<Loaded<T> & { path: string | null }>({ value: null, error: null, stale: true, path: null });
  useEffect(() => {
    if (path === null) return;
    let wanted = true;
    get<T>(path).then(
      (value) => wanted && setLoaded({ value, error: null, stale: false, path }),
      (error: Error) => wanted && setLoaded({ value: null, error: error.message, stale: false, path }),
    );
    return () => { wanted = false; };
  }, [path, again]);
  return { ...loaded, stale: loaded.path !== path };
}

/** What the server answers to several paths, whose number may change. */
export function useAnswers<T>(paths: string[]): { value: T | null; error: string | null }[] {
  const [loaded, setLoaded] = useState<Record<string, { value: T | null; error: string | null }>>({});
  useEffect(() => {
    let wanted = true;
    for (const path of paths) {
      get<T>(path).then(
        (value) => wanted && setLoaded((before) => ({ ...before, [path]: { value, error: null } })),
        (error: Error) => wanted && setLoaded((before) => ({ ...before, [path]: { value: null, error: error.message } })),
      );
    }
    return () => { wanted = false; };
  }, [paths.join("\n")]);
  return paths.map((path) => loaded[path] ?? { value: null, error: null });
}

export function Waiting({ of, children }: { of: Loaded<unknown>; children?: ComponentChildren }) {
  if (of.error) return <p class="error" role="alert">{of.error}</p>;
  if (of.value === null) return <p class="dim" role="status">Loading…</p>;
  return <>{children}</>;
}
