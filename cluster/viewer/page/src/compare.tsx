import type { Comparison, ComparedRow, Difference, RunPair, Side } from "./api";
import { Beside } from "./beside";
import { label, number } from "./format";
import { useKeys } from "./keys";
import { useAnswer, Waiting } from "./load";
import { has } from "./report";
import { address, go, parse, type Route } from "./route";
import { Plain } from "./text";

const SHOWN = 200;
const LOWER_IS_BETTER = ["attack_success", "injected_calls", "tool_errors", "session_ended"];
const JUDGED = ["reward", "utility", "solved", "tests_passed", "utility_and_security", ...LOWER_IS_BETTER];

function chance(value: number | null): string {
  return value === null ? "" : value < 0.001 ? "< 0.001" : number(value, 2);
}

/** Whether an interval leaves 0 out, on the good side or on the other one. */
function tone(row: Difference): string {
  if (row.low <= 0 && row.high >= 0) return "";
  const good = LOWER_IS_BETTER.includes(row.metric) ? row.high < 0 : row.low > 0;
  return JUDGED.includes(row.metric) ? (good ? "fine" : "danger") : "";
}

const signed = (value: number) => `${value > 0 ? "+" : ""}${number(value)}`;

function Differences({ rows }: { rows: Difference[] }) {
  const most = Math.max(1e-9, ...rows.map((row) => Math.max(Math.abs(row.low), Math.abs(row.high))));
  const x = (value: number) => 50 + (48 * value) / most;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Differences"><table class="differences">
      <thead><tr><th>metric</th><th>pairs</th><th>first</th><th>other</th><th>difference</th><th>95 % interval</th><th><span class="hidden">plot</span></th><th title="pairs that went from 0 to 1, and from 1 to 0">0→1 / 1→0</th><th title="McNemar's exact test: takes pairs as independent">p of pairs</th><th title="tasks whose mean went up, and down">tasks ↑ / ↓</th><th title="the exact sign test over tasks">p of tasks</th></tr></thead>
      <tbody>{rows.map((row) => (
        <tr>
          <td>{label(row.metric)}</td><td class="number">{number(row.pairs)}</td><td class="number">{number(row.first)}</td><td class="number">{number(row.second)}</td>
          <td class={`number ${tone(row)}`}>{signed(row.difference)}</td>
          <td class="number dim">{number(row.low, 2)} to {number(row.high, 2)}</td>
          <td class="wide"><span class="track middle"><i class="range" style={{ left: `${x(row.low)}%`, width: `${Math.max(0.5, x(row.high) - x(row.low))}%` }} /><i class="point" style={{ left: `${x(row.difference)}%` }} /></span></td>
          <td class="number">{row.gained === null ? "" : `${number(row.gained)} / ${number(row.lost)}`}</td><td class="number">{chance(row.mcnemar_p)}</td>
          <td class="number">{number(row.tasks_up)} / {number(row.tasks_down)}</td><td class="number">{chance(row.sign_p)}</td>
        </tr>
      ))}</tbody>
    </table></div>
  );
}

/** All runs' means beside the first one's. */
function Overview({ names, pairs }: { names: string[]; pairs: RunPair[] }) {
  const metrics = [...new Set(pairs.flatMap((pair) => pair.metrics.map((row) => row.metric)))];
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="All runs"><table class="overview">
      <thead><tr><th>metric</th>{names.map((one) => <th>{one}</th>)}</tr></thead>
      <tbody>{metrics.map((metric) => <tr><td>{label(metric)}</td>
        <td class="number">{number(pairs.flatMap((pair) => pair.metrics).find((row) => row.metric === metric)?.first ?? null)}</td>
        {pairs.map((pair) => {
          const row = pair.metrics.find((one) => one.metric === metric);
          return <td class="number">{row ? <>{number(row.second)} <span class={tone(row)}>{signed(row.difference)}</span> <span class="dim small">[{number(row.low, 2)}, {number(row.high, 2)}] p {chance(row.sign_p)}</span></> : "–"}</td>;
        })}</tr>)}</tbody>
    </table></div>
  );
}

function Counts({ pair }: { pair: RunPair }) {
  return (
    <p class="small dim">{number(pair.pairs)} pairs of episodes, by {pair.paired_by}
      {pair.failed > 0 && <>; {number(pair.failed)} with a failed episode, in no mean</>}
      {pair.only_first > 0 && <>; {number(pair.only_first)} only in the first</>}{pair.only_second > 0 && <>; {number(pair.only_second)} only in the other</>}</p>
  );
}

/** Two or more runs of the same tasks: what differs on average, which tasks do, and the transcripts side by side. */
export function ComparePage({ keys, route }: { keys: string[]; route: Route }) {
  const answer = useAnswer<Comparison>(`compare/${keys.join("/")}`);
  const found = answer.value;
  const pickedBy = (query: URLSearchParams) => found?.rows.findIndex((row) => row.sides[0]!.episode_id === query.get("a")) ?? -1;
  const picked = found?.rows[pickedBy(route.query)];
  const turn = (by: number) => { // keys come faster than the page is drawn
    const at = pickedBy(parse(location.hash).query), to = at + by;
    if (found && to >= 0 && to < Math.min(SHOWN, found.rows.length) && (at >= 0 || by > 0)) open(found.rows[to]);
  };
  const open = (row: ComparedRow) => go(route.path, new URLSearchParams({ a: row.sides[0]!.episode_id }));
  useKeys({ "[": () => turn(-1), "]": () => turn(1) });
  const names = found?.runs.map(name) ?? [];
  const title = (side: number) => `${["first", "second", "third"][side] ?? `run ${side + 1}`}: ${names[side]}`;
  const two = keys.length === 2;
  return (
    <main class="compare">
      <Waiting of={answer}>{found && <>
        <h2>{names.map((one, at) => <>{at > 0 && <span class="dim"> {two ? "→" : "·"} </span>}{one}</>)}</h2>
        {two ? <><Counts pair={found.pairs[0]} /><Differences rows={found.pairs[0].metrics} /></> : <>
          <p class="small dim">Each run beside the first one: mean, difference, 95 % interval, p of tasks.</p>
          <Overview names={names} pairs={found.pairs} />
          {found.pairs.map((pair, at) => <details><summary>{names[0]} → {names[at + 1]} <span class="dim small">{number(pair.pairs)} pairs</span></summary><Counts pair={pair} /><Differences rows={pair.metrics} /></details>)}
        </>}
        <p class="small dim">Intervals by a bootstrap that draws whole tasks; p of tasks by the exact sign test. {found.pairs.some((pair) => pair.samples_per_task) && "A task has several pairs: go by the interval and by the p of tasks. "}
          {two && has(`compare/${keys[1]}/${keys[0]}`) && <a href={address(["compare", keys[1], keys[0]])}>The other way round</a>}</p>
        <h3>{number(found.differing)} {two ? "pairs" : "episodes"} differ <span class="dim small">the largest change of the reward first</span></h3>
        {found.rows.length > 0 && <div class="scroll pairs" tabIndex={0} role="region" aria-label="What differs"><table>
          <thead><tr><th>task</th><th class="number">sample</th>{names.map((one, at) => <th class="number" title={one}>{two ? ["first", "second"][at] : one}</th>)}<th class="number">change</th><th>what differs</th></tr></thead>
          <tbody>{found.rows.slice(0, SHOWN).map((row) => (
            <tr class={row === picked ? "current" : ""} onClick={() => open(row)}>
              <td><button class="plain"><Plain text={row.task_id.slice(0, 120)} /></button></td><td class="number">{row.sample_index}</td>
              {row.sides.map((side) => <td class="number">{shown(side)}</td>)}
              <td class={`number ${row.difference === null ? "" : row.difference > 0 ? "fine" : row.difference < 0 ? "danger" : ""}`}>{row.difference === null ? "–" : signed(row.difference)}</td>
              <td class="small">{changes(row)}</td>
            </tr>
          ))}</tbody>
        </table></div>}
        {found.differing > Math.min(SHOWN, found.rows.length) && <p class="small dim">{window.KUMITE_REPORT ? `The report holds the transcripts of ${number(Math.min(SHOWN, found.rows.length))} of them.` : `The ${SHOWN} that differ most are shown.`}</p>}
        {picked && <Beside key={picked.sides[0]!.episode_id} scroll
          columns={picked.sides.flatMap((side, at) => side ? [{ run: keys[at].split("@")[0], id: side.episode_id, title: title(at) }] : [])} />}
        {found.rows.length > 0 && !picked && <p class="dim">Pick a row to see the transcripts side by side.</p>}
      </>}</Waiting>
    </main>
  );
}

function name(place: string): string {
  const [, path, version] = /^(.*?)\/*(?:@(\d+))?$/s.exec(place)!;
  return `${path.split("/").pop() ?? path}${version === undefined ? "" : `, version ${version}`}`;
}
const shown = (side: Side | null) => (side === null ? "–" : side.status === "failed" ? "failed" : number(side.reward));

function changes(row: ComparedRow): string {
  const sides = row.sides.filter((side) => side !== null);
  const names = [...new Set(sides.flatMap((side) => Object.keys(side.metrics)))];
  const of = (side: Side, one: string) => side.metrics[one] ?? null;
  return names.filter((one) => new Set(sides.map((side) => of(side, one))).size > 1)
    .map((one) => `${label(one)} ${sides.map((side) => number(of(side, one))).join(" → ")}`).join(", ");
}
