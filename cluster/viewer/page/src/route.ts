import { useLayoutEffect, useState } from "preact/hooks";

/** The page's address after the `#`: a path, and a selection that can be sent to somebody. */
export interface Route { path: string[]; query: URLSearchParams }

export function parse(hash: string): Route {
  const [path, query] = hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query ?? "") };
}

export function address(path: string[], query?: URLSearchParams): string {
  const text = query?.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

export function go(path: string[], query?: URLSearchParams, replace = false): void {
  const target = address(path, query);
  if (replace) {
    history.replaceState(null, "", target);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = target;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(parse(location.hash));
  useLayoutEffect(() => {
    const changed = () => setRoute(parse(location.hash));
    window.addEventListener("hashchange", changed);
    changed(); // the address may have become another since the first rendering
    return () => window.removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/** The part of a query that selects episodes. */
export function selection(query: URLSearchParams): URLSearchParams {
  const kept = new URLSearchParams();
  for (const [key, value] of query) if (["search", "where", "sort", "tag"].includes(key)) kept.append(key, value);
  return kept;
}
