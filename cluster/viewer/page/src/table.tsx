import { useRef, useState } from "preact/hooks";
import type { Row, Rows } from "./api";
import { label, moment, number, seconds } from "./format";
import { useKeys, useRow } from "./keys";
import { useAnswer, Waiting } from "./load";
import { address, go, parse, selection, type Route } from "./route";
import { Plain } from "./text";

const PAGE = 100;
const FIRST = ["task_id", "sample_index", "status", "reward"];
const LAST = ["turns", "completion_tokens", "seconds_total", "policy_version", "error_stage", "stop_reason"];

function cell(name: string, value: Row[string], run: string) {
  if (name === "started_at" && typeof value === "number") return moment(value);
  if (name.startsWith("seconds_") && typeof value === "number") return seconds(value);
  if (Array.isArray(value)) return value.map((tag) => <a class="badge" href={address(["run", run, "episodes"], new URLSearchParams({ tag }))} title="Episodes with this tag" onClick={(event) => event.stopPropagation()}>{tag}</a>);
  if (typeof value === "number") return number(value);
  return value === null || value === undefined ? <span class="dim">–</span> : <Plain text={String(value).slice(0, 300)} />;
}

function tone(name: string, value: Row[string]): string {
  if (name === "status") return value === "failed" ? "danger" : "";
  if (name === "metric.attack_success") return value === 1 ? "danger" : "";
  if (name === "metric.utility" || name === "pass_rate") return value === 1 ? "fine" : "";
  return "";
}

function pageOf(route: Route): number {
  return Math.max(0, Number(route.query.get("page") ?? 0) || 0);
}

/** The episodes that the address selects, a page at a time. */
export function EpisodesPage({ run, route, progress }: { run: string; route: Route; progress: number }) {
  const byTask = route.query.get("by") === "task";
  const page = pageOf(route);
  const query = selection(route.query);
  if (byTask) query.set("by", "task");
  query.set("first", String(page * PAGE));
  query.set("count", String(PAGE));
  const answer = useAnswer<Rows>(`runs/${run}/episodes?${query}`, progress);
  const columns = useRef<[string, string][]>([]);
  if (answer.value && !byTask) columns.current = answer.value.columns;
  const [filter, setFilter] = useState("");
  const search = useRef<HTMLInputElement>(null);
  const set = (change: (next: URLSearchParams) => void) => {
    const next = new URLSearchParams(parse(location.hash).query); // keys come faster than the page is drawn
    change(next);
    if (!next.has("keep-page")) next.delete("page");
    next.delete("keep-page");
    setRow(-1);
    go(route.path, next);
  };
  const turn = (by: number) => {
    const to = pageOf(parse(location.hash)) + by;
    if (to < 0 || to * PAGE >= (answer.value?.total ?? 0)) return;
    set((next) => { next.set("page", String(to)); next.set("keep-page", "1"); });
  };
  const rows = answer.value?.rows ?? [];
  const from = answer.value?.first ?? 0; // of the rows that are shown: those before, until the page's are there
  const open = (one: Row) => byTask
    ? set((next) => { next.delete("by"); next.delete("sort"); next.append("where", `task_id=${String(one.task_id)}`); })
    : go(["run", run, "episode", String(one.episode_id)], selection(route.query));
  const [row, setRow] = useRow(rows.length, (place) => open(rows[place]));
  useKeys({
    "/": () => search.current?.focus(),
    "[": () => turn(-1),
    "]": () => turn(1),
  });
  const sort = route.query.get("sort") ?? "";
  const wheres = route.query.getAll("where");
  const kinds = new Map(answer.value?.columns);
  const all = answer.value?.columns.map(([name]) => name) ?? [];
  const has = (name: string) => rows.some((one) => one[name] !== null && one[name] !== undefined);
  const shown = byTask ? all : [...FIRST, ...all.filter((name) => name.startsWith("metric.") && name !== "metric.turns" && has(name)), ...LAST.filter(has), ...(rows.some((one) => (one.tags as string[])?.length) ? ["tags"] : [])];
  const addFilter = () => {
    if (filter.trim()) set((next) => next.append("where", filter.trim()));
    setFilter("");
  };
  const total = answer.value?.total ?? 0;
  return (
    <main class="table-page">
      {window.KUMITE_REPORT && <p class="small dim">A report: these episodes were chosen when it was written. A search looks through the texts that it holds.</p>}
      <form class="row filters" role="search" onSubmit={(event) => { event.preventDefault(); set((next) => next.set("search", search.current!.value)); }}>
        <label class="grow">search <input ref={search} type="search" defaultValue={route.query.get("search") ?? ""} placeholder="text in a message, reasoning or tool call" /></label>
        <button type="submit">find</button>
        <label class="grow">filter <input list="columns" value={filter} placeholder="reward<1, suite=banking, metric.utility=1, error_stage!=" onInput={(event) => setFilter(event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Enter") { event.preventDefault(); addFilter(); } }} /></label>
        <datalist id="columns">{columns.current.map(([name, kind]) => <option value={`${name}${kind === "number" ? ">=" : "="}`} />)}</datalist>
        <button type="button" onClick={addFilter}>add</button>
        <button type="button" aria-pressed={byTask} onClick={() => set((next) => { if (byTask) next.delete("by"); else next.set("by", "task"); next.delete("sort"); })}>by task</button>
        {[["failed", "status=failed"], ["passed", "reward>=1"], ["not passed", "reward<1"]].map(([name, where]) => (
          <button type="button" aria-pressed={wheres.includes(where)} onClick={() => set((next) => {
            const kept = next.getAll("where").filter((one) => one !== where);
            const had = wheres.includes(where);
            next.delete("where");
            for (const one of had ? kept : [...kept, where]) next.append("where", one);
          })}>{name}</button>
        ))}
      </form>
      {(wheres.length > 0 || route.query.get("search") || route.query.getAll("tag").length > 0) && (
        <p class="row small">
          {route.query.get("search") && <button class="chip" onClick={() => { if (search.current) search.current.value = ""; set((next) => next.delete("search")); }} title="Take it away">“{route.query.get("search")}” ×</button>}
          {wheres.map((one) => <button class="chip" title="Take it away" onClick={() => set((next) => { const kept = next.getAll("where").filter((other) => other !== one); next.delete("where"); for (const other of kept) next.append("where", other); })}><Plain text={one} /> ×</button>)}
          {route.query.getAll("tag").map((one) => <button class="chip" title="Take it away" onClick={() => set((next) => next.delete("tag"))}>tag {one} ×</button>)}
        </p>
      )}
      <p class="row small" aria-live="polite">
        <b>{total.toLocaleString("en")} {byTask ? "tasks" : "episodes"}</b>
        <span class="spacer" />
        {total > PAGE && <>
          <button disabled={page === 0} onClick={() => turn(-1)}>← page</button>
          <span>{(from + 1).toLocaleString("en")} to {(from + rows.length).toLocaleString("en")}</span>
          <button disabled={(page + 1) * PAGE >= total} onClick={() => turn(1)}>page →</button>
        </>}
      </p>
      <Waiting of={answer}>
        <div class="scroll" tabIndex={0} role="region" aria-label="Episodes">
          <table>
            <thead><tr>{shown.map((name) => (
              <th class={kinds.get(name) === "number" ? "number" : ""} aria-sort={sort === name ? "ascending" : sort === `-${name}` ? "descending" : "none"}>
                <button title={`column ${name}`} onClick={() => set((next) => { if (sort === `-${name}`) next.set("sort", name); else if (sort === name) next.delete("sort"); else next.set("sort", `-${name}`); })}>
                  {label(name)}{sort === name ? " ▲" : sort === `-${name}` ? " ▼" : ""}
                </button>
              </th>
            ))}</tr></thead>
            <tbody>{rows.map((one, place) => (
              <tr class={place === row ? "current" : ""} onClick={() => open(one)}>
                {shown.map((name) => (
                  <td class={`${kinds.get(name) === "number" ? "number" : ""} ${tone(name, one[name])}`} title={typeof one[name] === "string" ? String(one[name]) : undefined}>
                    {name === "task_id" && !byTask
                      ? <a href={address(["run", run, "episode", String(one.episode_id)], selection(route.query))} onClick={(event) => event.stopPropagation()}>{cell(name, one[name], run)}</a>
                      : name === "task_id" ? <a href="#" onClick={(event) => { event.preventDefault(); event.stopPropagation(); open(one); }}>{cell(name, one[name], run)}</a>
                      : name === "pass_rate" && typeof one[name] === "number" ? <span class="share"><i style={{ width: `${100 * (one[name] as number)}%` }} />{number(one[name])}</span>
                      : cell(name, one[name], run)}
                  </td>
                ))}
              </tr>
            ))}</tbody>
          </table>
        </div>
        {total === 0 && <p class="dim">No episode fits. Take a filter away, or look for another text.</p>}
      </Waiting>
    </main>
  );
}
