import { answerFromReport } from "./report";

/** What the server answers. */
export interface Cut { text: string; length: number }
export interface Call { id?: string; name: string; arguments: Cut | null; injected?: boolean; answer?: number | null }
export interface Message {
  role: string; content: Cut | null; injected: [number, number][]; injected_beyond: number;
  reasoning?: Cut; calls?: Call[];
}
export interface Line {
  calls: string[]; reward: number | null; policy_seconds: number; tools_seconds: number; version: number | null;
  tokens: number | null; finish_reason: string | null; injected_call: boolean; changes_state: boolean;
  agent: string | null; branch: number | null; parent: number | null;
}
export interface ExpectedCall { name: string; arguments: unknown; step: number | null; other_step: number | null }
export interface Tokens {
  kept: number; goes_on: boolean; prompt: number[]; prompt_texts: string[] | null; prompt_left_out: number;
  sampled: number[]; sampled_texts: string[] | null; logprobs: number[] | null;
}
export interface Step extends Omit<Line, "calls" | "tokens"> {
  index: number; content: Cut | null; reasoning: Cut | null; calls: Call[]; observations: Message[];
  context: Message[] | null; done: boolean; no_logprobs: string | null; tokens: Tokens | null;
  usage: { prompt_tokens: number; completion_tokens: number } | null;
}
export interface Note { tags: string[]; text: string }
export interface Episode {
  episode_id: string; task_id: string; sample_index: number; status: string; reward: number | null;
  environment: string; suite: string | null; user_task: string | null; injection_task: string | null;
  attack: string | null; model: string; policy_version: number | null; last_policy_version: number | null;
  stop_reason: string | null; is_truncated: boolean; attempt: number; started_at: number; worker_id: string;
  node_id: string; sandbox_id: string | null;
  metrics: Record<string, number | null> | string; timings: Record<string, number>;
  usage: { prompt_tokens: number; completion_tokens: number };
  error: { stage: string; kind: string; type: string; message: string } | null;
  tools: { name: string; description?: string }[] | string; has_state: boolean; has_files: boolean; has_tokens: boolean;
  details: unknown; connections: unknown; notice: string | null;
  injected: Cut[]; wanted_pending: boolean; wanted_calls: ExpectedCall[]; own_calls: ExpectedCall[];
  opening: Message[]; outline: Line[]; neighbours: { before: string | null; after: string | null };
  samples: { episode_id: string; sample_index: number; status: string; reward: number | null; turns: number }[];
  note: Note;
}
export type Row = Record<string, string | number | boolean | null | string[]>;
export interface Rows { total: number; first: number; columns: [string, string][]; rows: Row[] }
export interface Mean { value: number; low: number; high: number; episodes: number }
export interface Histogram { edges: number[]; counts: number[] }
export interface By { key: string | number; episodes: number; means: Record<string, Mean | null> }
export interface Cell { suite: string; user_task: string; injection_task: string; value: number; episodes: number }
export interface Disagreeing { task_id: string; episode_id: string; samples: number; reward: number; reward_deviation: number; pass_rate: number }
export interface InjectionRow {
  suite: string; injection_task: string; episodes: number; success: Mean; read: number; tools: [string, number][];
  places: Record<string, { episodes: number; success: number | null }>;
}
export interface Injections { rows: InjectionRow[]; looked_through: number }
export interface ToolUse { name: string; calls: number; episodes: number; errors: number | null }
/** The head of a run's page, which the server has before it has read the run's episodes. */
export interface Brief {
  place: string; run_id: string; created: number; planned: number | null; wall_seconds: number | null; state: string;
  episodes: number; finished: number | null; means: Record<string, Mean | null>;
}
export interface Overview extends Brief {
  key: string; cancelled: number; config: string; finished: number; series: Record<string, unknown>[];
  histograms: Record<string, Histogram | null>;
  stages: Record<string, { p5: number; p50: number; p95: number; mean: number } | null>;
  counts: Record<string, [string | number, number][]>; versions: By[]; suites: By[]; disagreeing: Disagreeing[]; heat: Record<string, Cell[]>;
}
export interface RunLine {
  key: string; place: string; name: string; error?: string; state: string; created: number; policy: string;
  summary: {
    environment: string | null; planned: number | null; finished: number; failed: number; reward: number | null;
    metrics: Record<string, number>; means: Record<string, Mean>; prompt_tokens: number; completion_tokens: number; wall_seconds: number | null;
    cost: { total: number } | null;
  };
}

export interface Difference {
  metric: string; pairs: number; first: number; second: number; difference: number; low: number; high: number;
  gained: number | null; lost: number | null; mcnemar_p: number | null; tasks_up: number; tasks_down: number; sign_p: number;
}
export interface Side { episode_id: string; status: string; reward: number | null; metrics: Record<string, number | null> }
export interface ComparedRow { task_id: string; sample_index: number; sides: (Side | null)[]; difference: number | null }
export interface RunPair {
  first: string; second: string; paired_by: string; pairs: number; only_first: number; only_second: number; failed: number;
  samples_per_task: boolean; metrics: Difference[];
}
export interface Comparison { runs: string[]; pairs: RunPair[]; differing: number; rows: ComparedRow[] }

declare global {
  interface Window { KUMITE_REPORT?: Record<string, unknown> }
}

/** Asks the server, or the report that this page is. */
export async function get<T>(path: string): Promise<T> {
  if (window.KUMITE_REPORT) return answerFromReport(window.KUMITE_REPORT, path) as T;
  const response = await fetch(`api/${path}`);
  const body = await response.text();
  let parsed: unknown = null;
  try { parsed = JSON.parse(body); } catch { throw new Error(body.slice(0, 500)); }
  if (!response.ok) throw new Error((parsed as { error?: string }).error ?? response.statusText);
  return parsed as T;
}

export async function putNote(run: string, episode: string, note: Note): Promise<void> {
  const response = await fetch(`api/runs/${run}/episodes/${episode}/note`, { method: "PUT", body: JSON.stringify(note) });
  if (!response.ok) throw new Error(((await response.json()) as { error: string }).error);
}
