import type { Cut, Row, Rows } from "./api";

/** What a report holds: the server's answers by the paths that they answer. */
type Report = Record<string, unknown>;

const FILTER = /^([^!<>=~]+)(!=|>=|<=|=|<|>|~)([\s\S]*)$/;
const PASSING_REWARD = 1;

/** Whether the page has what a path asks for: always where a server answers, else where the report has it. */
export function has(path: string): boolean {
  return window.KUMITE_REPORT === undefined || path in window.KUMITE_REPORT;
}

/** Versions of a run's weights that can be compared; null: any. */
export function comparedVersions(run: string): Set<string> | null {
  if (window.KUMITE_REPORT === undefined) return null;
  const sides = Object.keys(window.KUMITE_REPORT).filter((key) => key.startsWith(`compare/${run}@`));
  return new Set(sides.flatMap((key) => key.split("/").slice(1)).map((side) => side.slice(run.length + 1)));
}

/** Answers from a report as the server does. */
export function answerFromReport(report: Report, path: string): unknown {
  if (path in report) return report[path];
  const [place, text] = path.split("?", 2);
  const found = report[place];
  if (found === undefined) throw new Error("this is not in the report");
  const asked = new URLSearchParams(text);
  const [, run, id] = /^runs\/([^/]+)\/episodes(?:\/([^/]+))?$/.exec(place) ?? [];
  if (run && !id) return pageOf(report, run, found as Rows, asked);
  if (run) return { ...(found as object), neighbours: neighbours(selected(report, run, asked), decodeURIComponent(id)) };
  if (Array.isArray(found) && asked.has("first")) return found.slice(...range(asked));
  return found;
}

function range(asked: URLSearchParams): [number, number] {
  const first = Number(asked.get("first") ?? 0);
  return [first, first + Number(asked.get("count") ?? 100)];
}

function pageOf(report: Report, run: string, all: Rows, asked: URLSearchParams): Rows {
  const byTask = asked.get("by") === "task";
  const sort = asked.get("sort") ?? "";
  const own = new URLSearchParams(asked);
  if (byTask) own.delete("sort");
  const chosen = selected(report, run, own);
  const rows = byTask ? ordered(tasksOf(chosen), TASK_COLUMNS, sort) : chosen;
  const [first, last] = range(asked);
  return { total: rows.length, first, columns: byTask ? TASK_COLUMNS : all.columns, rows: rows.slice(first, last) };
}

/** The episodes of a report that a query selects, in its order. */
function selected(report: Report, run: string, asked: URLSearchParams): Row[] {
  const { rows, columns } = report[`runs/${run}/episodes`] as Rows;
  const fits = asked.getAll("where").filter(Boolean).map((text) => filterOf(text, columns));
  const search = (asked.get("search") ?? "").toLowerCase();
  const tags = asked.getAll("tag").filter(Boolean);
  const chosen = rows.filter((row) => fits.every((fit) => fit(row)) && tags.every((tag) => (row.tags as string[]).includes(tag))
    && (!search || hasText(report, run, String(row.episode_id), search)));
  return ordered(chosen, columns, asked.get("sort") ?? "");
}

function columnKind(columns: [string, string][], name: string): string {
  const found = columns.find(([one]) => one === name);
  if (!found) throw new Error(`there is no column '${name}'; there are ${columns.map(([one]) => one).join(", ")}`);
  return found[1];
}

/** Whether a row fits a filter; what is null fits none but `!=`. */
function filterOf(text: string, columns: [string, string][]): (row: Row) => boolean {
  const match = FILTER.exec(text);
  if (!match) throw new Error(`the filter '${text}' is not a column, one of = != < <= > >= ~, and a value`);
  const [name, operator, value] = [match[1].trim(), match[2], match[3].trim()];
  const kind = columnKind(columns, name);
  const of = (row: Row) => row[name] ?? null;
  if (operator === "~") return (row) => of(row) !== null && String(of(row)).toLowerCase().includes(value.toLowerCase());
  if (!value) {
    if (operator !== "=" && operator !== "!=") throw new Error(`the filter '${text}' has no value: after = or != that is null, and else none`);
    return (row) => (of(row) === null) === (operator === "=");
  }
  const wanted = kind === "number" ? Number(value) : kind === "truth" ? value.toLowerCase() === "true" : value;
  if ((kind === "number" && Number.isNaN(wanted)) || (kind === "truth" && !/^(true|false)$/i.test(value))) {
    throw new Error(`the filter '${text}': ${name} is a ${kind}, and '${value}' is not`);
  }
  const compare: Record<string, (one: NonNullable<Row[string]>) => boolean> = {
    "=": (one) => one === wanted, "!=": (one) => one !== wanted,
    "<": (one) => one < wanted, "<=": (one) => one <= wanted, ">": (one) => one > wanted, ">=": (one) => one >= wanted,
  };
  return (row) => { const one = of(row); return one === null ? operator === "!=" : compare[operator](one); };
}

/** Rows by a column, those without a value last; equal ones stay in their order. */
function ordered(rows: Row[], columns: [string, string][], sort: string): Row[] {
  if (!sort) return rows;
  const name = sort.replace(/^-/, "");
  columnKind(columns, name);
  const turn = sort.startsWith("-") ? -1 : 1;
  return [...rows].sort((one, other) => {
    const [left, right] = [one[name] ?? null, other[name] ?? null];
    if (left === null || right === null) return Number(left === null) - Number(right === null);
    return left < right ? -turn : left > right ? turn : 0;
  });
}

/** Whether a text of an episode has a part: in messages, reasoning and tool calls, as far as the report has them. */
function hasText(report: Report, run: string, id: string, part: string): boolean {
  const own = `runs/${run}/episodes/${id}`;
  const holds = (value: unknown): boolean => {
    if (Array.isArray(value)) return value.some(holds);
    if (typeof value !== "object" || value === null) return false;
    if (typeof (value as Cut).text === "string") return (value as Cut).text.toLowerCase().includes(part);
    return Object.entries(value).some(([key, child]) => key === "name" ? String(child).toLowerCase().includes(part) : holds(child));
  };
  return holds((report[own] as { opening?: unknown } | undefined)?.opening) || holds(report[`${own}/steps`]);
}

function neighbours(rows: Row[], id: string): { before: string | null; after: string | null } {
  const at = rows.findIndex((row) => row.episode_id === id);
  const idAt = (place: number) => (rows[place] ? String(rows[place].episode_id) : null);
  return at < 0 ? { before: null, after: idAt(0) } : { before: idAt(at - 1), after: idAt(at + 1) };
}

const TASK_COLUMNS: [string, string][] = [["task_id", "text"], ["samples", "number"], ["failed", "number"], ["reward", "number"], ["reward_deviation", "number"], ["pass_rate", "number"], ["turns", "number"], ["seconds_total", "number"]];

/** One row per task; means are over what is not null. */
function tasksOf(rows: Row[]): Row[] {
  const tasks = new Map<string, Row[]>();
  for (const row of rows) tasks.set(String(row.task_id), [...(tasks.get(String(row.task_id)) ?? []), row]);
  const mean = (values: number[]) => (values.length ? values.reduce((sum, one) => sum + one, 0) / values.length : null);
  return [...tasks].map(([task, own]) => {
    const numbers = (name: string) => own.map((row) => row[name]).filter((one): one is number => typeof one === "number");
    const rewards = numbers("reward");
    const middle = mean(rewards);
    const square = middle === null ? null : mean(rewards.map((one) => (one - middle) ** 2));
    return {
      task_id: task, samples: own.length, failed: own.filter((row) => row.status === "failed").length, reward: middle,
      reward_deviation: square === null ? null : Math.sqrt(square), pass_rate: mean(rewards.map((one) => Number(one >= PASSING_REWARD))),
      turns: mean(numbers("turns")), seconds_total: mean(numbers("seconds_total")),
    };
  });
}
