import { useEffect, useState } from "preact/hooks";
import type { Comparison, Difference, Episode, Pair, Step } from "./api";
import { StepView } from "./episode";
import { label, number } from "./format";
import { useKeys } from "./keys";
import { useAnswer, Waiting } from "./load";
import { address, go, type Route } from "./route";
import { Plain } from "./text";

const SHOWN = 200;
const STEPS = 60;

function chance(value: number | null): string {
  return value === null ? "" : value < 0.001 ? "< 0.001" : number(value, 2);
}

/** Whether an interval leaves 0 out, on the good side or on the other one. */
function tone(row: Difference): string {
  if (row.low <= 0 && row.high >= 0) return "";
  const good = row.metric === "attack_success" ? row.high < 0 : row.low > 0;
  return ["reward", "utility", "attack_success"].includes(row.metric) ? (good ? "fine" : "danger") : "";
}

function Differences({ rows }: { rows: Difference[] }) {
  const most = Math.max(1e-9, ...rows.map((row) => Math.max(Math.abs(row.low), Math.abs(row.high))));
  const x = (value: number) => 50 + (48 * value) / most;
  return (
    <div class="scroll"><table class="differences">
      <thead><tr><th>metric</th><th>pairs</th><th>first</th><th>second</th><th>difference</th><th>95 % interval</th><th /><th title="pairs that went from 0 to 1, and from 1 to 0">0→1 / 1→0</th><th title="McNemar's exact test: takes pairs as independent">p of pairs</th><th title="tasks whose mean went up, and down">tasks ↑ / ↓</th><th title="the exact sign test over tasks">p of tasks</th></tr></thead>
      <tbody>{rows.map((row) => (
        <tr>
          <td>{label(row.metric)}</td><td class="number">{number(row.pairs)}</td><td class="number">{number(row.first)}</td><td class="number">{number(row.second)}</td>
          <td class={`number ${tone(row)}`}>{row.difference > 0 ? "+" : ""}{number(row.difference)}</td>
          <td class="number dim">{number(row.low, 2)} to {number(row.high, 2)}</td>
          <td class="wide"><span class="track middle"><i class="range" style={{ left: `${x(row.low)}%`, width: `${Math.max(0.5, x(row.high) - x(row.low))}%` }} /><i class="point" style={{ left: `${x(row.difference)}%` }} /></span></td>
          <td class="number">{row.gained === null ? "" : `${number(row.gained)} / ${number(row.lost)}`}</td><td class="number">{chance(row.mcnemar_p)}</td>
          <td class="number">{number(row.tasks_up)} / {number(row.tasks_down)}</td><td class="number">{chance(row.sign_p)}</td>
        </tr>
      ))}</tbody>
    </table></div>
  );
}

/** Two runs of the same tasks: what differs on average, which tasks do, and two transcripts side by side. */
export function ComparePage({ first, second, route }: { first: string; second: string; route: Route }) {
  const answer = useAnswer<Comparison>(`compare/${first}/${second}`);
  const found = answer.value;
  const picked = found?.rows.find((row) => row.first.episode_id === route.query.get("a") && row.second.episode_id === route.query.get("b"));
  const open = (row: Pair) => go(route.path, new URLSearchParams({ a: row.first.episode_id, b: row.second.episode_id }));
  const place = found && picked ? found.rows.indexOf(picked) : -1;
  useKeys({
    "[": () => { if (found && place > 0) open(found.rows[place - 1]); },
    "]": () => { if (found && place + 1 < Math.min(SHOWN, found.rows.length)) open(found.rows[place + 1]); },
    c: () => void navigator.clipboard?.writeText(location.href),
  });
  return (
    <main class="compare">
      <Waiting of={answer}>{found && <>
        <h2>{name(found.first)} <span class="dim">→</span> {name(found.second)}</h2>
        <p class="small dim">{number(found.pairs)} pairs of episodes, by {found.paired_by}
          {found.failed > 0 && <>; {number(found.failed)} with a failed episode, in no mean</>}
          {found.only_first > 0 && <>; {number(found.only_first)} only in the first</>}{found.only_second > 0 && <>; {number(found.only_second)} only in the second</>}
          {" "}· <a href={address(["compare", second, first])}>the other way round</a></p>
        <Differences rows={found.metrics} />
        <p class="small dim">Intervals by a bootstrap that draws whole tasks. {found.samples_per_task && "A task has several pairs: go by the interval and by the p of tasks."}</p>
        <h3>{number(found.differing)} pairs differ <span class="dim small">reward in the first and the second run</span></h3>
        {found.rows.length > 0 && <div class="scroll pairs"><table>
          <thead><tr><th>task</th><th>sample</th><th>first</th><th>second</th><th>change</th><th>what differs</th></tr></thead>
          <tbody>{found.rows.slice(0, SHOWN).map((row) => (
            <tr class={row === picked ? "current" : ""} onClick={() => open(row)}>
              <td><button class="plain"><Plain text={row.task_id.slice(0, 120)} /></button></td><td class="number">{row.sample_index}</td>
              <td class="number">{shown(row.first)}</td><td class="number">{shown(row.second)}</td>
              <td class={`number ${row.difference === null ? "" : row.difference > 0 ? "fine" : row.difference < 0 ? "danger" : ""}`}>{row.difference === null ? "–" : `${row.difference > 0 ? "+" : ""}${number(row.difference)}`}</td>
              <td class="small">{changes(row)}</td>
            </tr>
          ))}</tbody>
        </table></div>}
        {found.differing > SHOWN && <p class="small dim">The {SHOWN} that differ most are shown.</p>}
        {picked && <Beside key={picked.first.episode_id + picked.second.episode_id} runs={[first, second]} pair={picked} />}
        {found.rows.length > 0 && !picked && <p class="dim">Pick a pair to see both transcripts side by side.</p>}
      </>}</Waiting>
    </main>
  );
}

const name = (place: string) => place.replace(/\/+$/, "").split("/").pop() ?? place;
const shown = (side: Pair["first"]) => (side.status === "failed" ? "failed" : number(side.reward));

function changes(row: Pair): string {
  const names = [...new Set([...Object.keys(row.first.metrics), ...Object.keys(row.second.metrics)])];
  return names.filter((one) => (row.first.metrics[one] ?? null) !== (row.second.metrics[one] ?? null))
    .map((one) => `${label(one)} ${number(row.first.metrics[one] ?? null)} → ${number(row.second.metrics[one] ?? null)}`).join(", ");
}

const act = (step: Step | undefined) => step && JSON.stringify([step.content?.text ?? "", step.calls.map((call) => [call.name, call.arguments?.text])]);

/** Two transcripts, step by step; the first step on which they part is marked. */
function Beside({ runs, pair }: { runs: [string, string]; pair: Pair }) {
  const ids = [pair.first.episode_id, pair.second.episode_id];
  const episodes = [useAnswer<Episode>(`runs/${runs[0]}/episodes/${ids[0]}`), useAnswer<Episode>(`runs/${runs[1]}/episodes/${ids[1]}`)];
  const steps = [useAnswer<Step[]>(`runs/${runs[0]}/episodes/${ids[0]}/steps?first=0&count=${STEPS}`), useAnswer<Step[]>(`runs/${runs[1]}/episodes/${ids[1]}/steps?first=0&count=${STEPS}`)];
  const [scrolled, setScrolled] = useState(false);
  const lists = steps.map((one) => one.value ?? []);
  const ready = [...episodes, ...steps].every((one) => one.value);
  const length = Math.max(...lists.map((one) => one.length));
  const places = Array.from({ length }, (_, at) => at);
  const parting = places.find((at) => act(lists[0][at]) !== act(lists[1][at]));
  useEffect(() => {
    if (!ready || scrolled) return;
    document.querySelector(".beside")?.scrollIntoView({ block: "start" });
    setScrolled(true);
  }, [ready]);
  return (
    <section class="beside" aria-label="Both transcripts">
      <header>{episodes.map((one, side) => <div><h3><a href={address(["run", runs[side], "episode", ids[side]])}>{side ? "second" : "first"}: {ids[side]}</a></h3>
        {one.error && <p class="error">{one.error}</p>}
        {one.value && <p class="small">{one.value.status}, reward {number(one.value.reward)}, {one.value.model}{one.value.policy_version !== null && `, version ${one.value.policy_version}`}{one.value.stop_reason && `, ended by ${one.value.stop_reason}`}</p>}
        {one.value?.error && <p class="danger small"><Plain text={`${one.value.error.stage}: ${one.value.error.type}: ${one.value.error.message.slice(0, 500)}`} /></p>}</div>)}</header>
      {!ready && <p class="dim" role="status">Loading…</p>}
      {ready && places.map((at) => <>
        {at === parting && <p class="boundary">here they part</p>}
        <div class="two">{lists.map((list, side) => <div>{list[at]
          ? <StepView step={list[at]} at={at} current={false} run={runs[side]} episode={episodes[side].value!} wide={false} previousVersion={null} onPick={() => undefined} />
          : <p class="dim small">No step {at}: the episode had ended.</p>}</div>)}</div>
      </>)}
      {ready && parting === undefined && <p class="boundary">both act alike to the end</p>}
    </section>
  );
}
